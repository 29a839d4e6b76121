{{/* Weights and engines: the key, the paths, the commands that fetch and build. */}}

{{- define "qwen3-vl.engine.cached" -}}
{{- if has .Values.engine.mode (list "job" "init") -}}true{{- end -}}
{{- end -}}

{{/* Everything that an engine depends on. Whoever changes one of these gets another directory and another Job. */}}
{{- define "qwen3-vl.engine.key" -}}
{{- $image := ternary .Values.images.builder .Values.images.server (ne .Values.images.builder.repository "") -}}
{{- $e := .Values.engine -}}
{{- $facts := dict
  "target" .Values.target
  "weights" (pick .Values.weights "source" "path" "repository" "revision")
  "claim" .Values.weights.claim.existing
  "options" (pick $e "weights" "kvCacheDtype" "tpSize" "maxBatchSize" "maxInputLen" "maxSeqLen" "maxNumTokens" "maxVisualTokens" "extraArgs")
  "gpu" (ternary (dict "products" .Values.gpu.products "resource" .Values.gpu.resourceName) (dict) (eq .Values.target "tensorrt-llm"))
  "image" (include "qwen3-vl.image" (dict "root" . "image" $image)) -}}
{{- $facts | toJson | sha256sum | trunc 12 -}}
{{- end -}}

{{/* Where the server finds its engines. */}}
{{- define "qwen3-vl.engine.directory" -}}
{{- if include "qwen3-vl.engine.cached" . -}}
/engines/{{ include "qwen3-vl.engine.key" . }}
{{- else if eq .Values.engine.mode "none" -}}
/engines/described
{{- else -}}
{{ .Values.engine.path }}
{{- end -}}
{{- end -}}

{{- define "qwen3-vl.weights.downloaded" -}}
{{- if has .Values.weights.source (list "huggingface" "s3") -}}true{{- end -}}
{{- end -}}

{{/* Directory of the checkpoint, as builders see it. */}}
{{- define "qwen3-vl.weights.directory" -}}
{{- if eq .Values.weights.source "image" -}}
{{ .Values.weights.path }}
{{- else if eq .Values.weights.source "claim" -}}
/weights/{{ .Values.weights.path | trimPrefix "/" }}
{{- else -}}
/weights/{{ .Values.weights.repository | replace "/" "--" }}--{{ .Values.weights.revision | replace "/" "--" }}
{{- end -}}
{{- end -}}

{{- define "qwen3-vl.weights.claim" -}}
{{- default (printf "%s-weights" (include "qwen3-vl.fullname" .)) .Values.weights.claim.existing -}}
{{- end -}}

{{- define "qwen3-vl.engine.claim" -}}
{{- default (printf "%s-engines" (include "qwen3-vl.fullname" .)) .Values.engine.cache.existingClaim -}}
{{- end -}}

{{/* dict root, build (bool): init containers that bring weights. Empty when they are there already. */}}
{{- define "qwen3-vl.weights.fetch" -}}
{{- if include "qwen3-vl.weights.downloaded" . -}}
{{- $w := .Values.weights -}}
- name: fetch-weights
  {{- include "qwen3-vl.builderImage" . | nindent 2 }}
  args:
    - python3
    - -m
    - build_engine
    - fetch
    {{- if eq $w.source "huggingface" }}
    - {{ printf "hf://%s@%s" $w.repository $w.revision | quote }}
    {{- else }}
    - {{ printf "s3://%s" $w.repository | quote }}
    {{- end }}
    - {{ include "qwen3-vl.weights.directory" . }}
  env:
    {{- include "qwen3-vl.writableHome" . | nindent 4 }}
    {{- if $w.offline }}
    - {name: HF_HUB_OFFLINE, value: "1"}
    {{- end }}
    {{- with $w.endpoint }}
    - name: {{ ternary "HF_ENDPOINT" "AWS_ENDPOINT_URL" (eq $w.source "huggingface") }}
      value: {{ . | quote }}
    {{- end }}
  {{- with $w.existingSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  securityContext:
    {{- include "qwen3-vl.containerSecurityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 500m, memory: 1Gi}
    limits: {memory: 2Gi}
  volumeMounts:
    - {name: weights, mountPath: /weights}
    - {name: tmp, mountPath: /tmp}
{{- end -}}
{{- end -}}

{{/* Arguments of `python -m build_engine cached`, without the checkpoint and what says whether it may build. */}}
{{- define "qwen3-vl.engine.arguments" -}}
{{- $e := .Values.engine -}}
- --target={{ .Values.target }}
- --weights={{ $e.weights }}
- --cache=/engines
- --key={{ include "qwen3-vl.engine.key" . }}
- --max-batch-size={{ $e.maxBatchSize }}
{{- range $name, $value := dict "--max-input-len" $e.maxInputLen "--max-seq-len" $e.maxSeqLen "--max-num-tokens" $e.maxNumTokens "--max-visual-tokens" $e.maxVisualTokens }}
{{- if $value }}
- {{ $name }}={{ $value }}
{{- end }}
{{- end }}
{{- if eq .Values.target "tensorrt-llm" }}
- --tp-size={{ $e.tpSize }}
- --kv-cache-dtype={{ $e.kvCacheDtype }}
{{- end }}
{{- range $e.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Volumes of whoever fetches or builds. */}}
{{- define "qwen3-vl.engine.volumes" -}}
{{- if ne .Values.weights.source "image" }}
- name: weights
  persistentVolumeClaim: {claimName: {{ include "qwen3-vl.weights.claim" . }}}
{{- end }}
- name: engines
  persistentVolumeClaim: {claimName: {{ include "qwen3-vl.engine.claim" . }}}
{{- end -}}

{{/* The mount of weights, read-only once they are there. */}}
{{- define "qwen3-vl.weights.mount" -}}
{{- if ne .Values.weights.source "image" -}}
- {name: weights, mountPath: /weights, readOnly: true}
{{- end -}}
{{- end -}}

{{/* GPUs of a container. */}}
{{- define "qwen3-vl.gpu.resources" -}}
{{- if eq .Values.target "tensorrt-llm" -}}
{{ .Values.gpu.resourceName }}: {{ .Values.gpu.count }}
{{- end -}}
{{- end -}}

{{/* dict root, resources: requests and limits with the GPUs in them. */}}
{{- define "qwen3-vl.resources" -}}
{{- $gpu := include "qwen3-vl.gpu.resources" .root | fromYaml -}}
{{- $requests := merge (dict) (default dict .resources.requests) $gpu -}}
{{- $limits := merge (dict) (default dict .resources.limits) $gpu -}}
{{- toYaml (dict "requests" $requests "limits" $limits) -}}
{{- end -}}

{{/* Nodes that have the GPUs: affinity by product and memory, the taint's toleration, the runtime class. */}}
{{- define "qwen3-vl.gpu.affinityTerms" -}}
{{- $expressions := list -}}
{{- with .Values.gpu.products -}}
{{- $expressions = append $expressions (dict "key" "nvidia.com/gpu.product" "operator" "In" "values" .) -}}
{{- end -}}
{{- if .Values.gpu.minMemoryMiB -}}
{{- $expressions = append $expressions (dict "key" "nvidia.com/gpu.memory" "operator" "Gt" "values" (list (sub (int .Values.gpu.minMemoryMiB) 1 | toString))) -}}
{{- end -}}
{{- if $expressions -}}
{{- toYaml (dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list (dict "matchExpressions" $expressions))))) -}}
{{- end -}}
{{- end -}}

{{- define "qwen3-vl.gpu.scheduling" -}}
{{- $gpu := eq .Values.target "tensorrt-llm" -}}
{{- if and $gpu .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.server.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .Values.server.tolerations -}}
{{- if and $gpu .Values.gpu.taint -}}
{{- $tolerations = prepend $tolerations (dict "key" .Values.gpu.taint "operator" "Exists" "effect" "NoSchedule") -}}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $affinity := deepCopy .Values.server.affinity -}}
{{- if $gpu -}}
{{- $affinity = mergeOverwrite (include "qwen3-vl.gpu.affinityTerms" . | fromYaml) $affinity -}}
{{- end }}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.server.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

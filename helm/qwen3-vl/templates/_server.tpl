{{/* The pod of the model server: Triton with the ensemble. */}}

{{/* Whether tensor parallelism spans pods, and how many. */}}
{{- define "qwen3-vl.server.nodes" -}}
{{- if eq .Values.target "tensorrt-llm" -}}
{{- div (add (int .Values.engine.tpSize) (int .Values.gpu.count) -1) (int .Values.gpu.count) -}}
{{- else -}}
1
{{- end -}}
{{- end -}}

{{- define "qwen3-vl.server.multiNode" -}}
{{- if gt (int (include "qwen3-vl.server.nodes" .)) 1 -}}true{{- end -}}
{{- end -}}

{{/* The one drain value: preStop sleeps, running answers finish, Triton exits (2.5 s at most), and some air. */}}
{{- define "qwen3-vl.server.graceSeconds" -}}
{{- add (int .Values.server.drain.loadBalancerSeconds) (int .Values.server.drain.inFlightSeconds) 15 -}}
{{- end -}}

{{- define "qwen3-vl.server.scaled" -}}
{{- if ne .Values.autoscaling.mode "none" -}}true{{- end -}}
{{- end -}}

{{/* One pod at a time where a second one would wait for a GPU for ever. */}}
{{- define "qwen3-vl.server.strategy" -}}
{{- $gpu := eq .Values.target "tensorrt-llm" -}}
{{- $single := and (not (include "qwen3-vl.server.scaled" .)) (le (int .Values.server.replicas) 1) -}}
{{- $type := .Values.server.strategy.type -}}
{{- if eq $type "auto" -}}{{- $type = ternary "Recreate" "RollingUpdate" (and $gpu $single) -}}{{- end -}}
type: {{ $type }}
{{- if eq $type "RollingUpdate" }}
rollingUpdate:
  {{- if $gpu }}
  maxSurge: 0
  maxUnavailable: 1
  {{- else }}
  maxSurge: 1
  maxUnavailable: 0
  {{- end }}
{{- end }}
{{- end -}}

{{- define "qwen3-vl.server.settings" -}}
{{- range $name, $value := .Values.server.settings }}
- --set={{ $name }}={{ $value }}
{{- end }}
{{- if eq .Values.engine.mode "none" }}
- --set=llm_api.model={{ include "qwen3-vl.weights.directory" . }}
{{- end }}
- --set=exit_timeout_s={{ .Values.server.drain.inFlightSeconds }}
{{- end -}}

{{/* Annotations and labels of the pods, the engine key among them. */}}
{{- define "qwen3-vl.server.podMetadata" -}}
labels:
  {{- include "qwen3-vl.labels" (dict "root" . "component" "server") | nindent 2 }}
  {{- if include "qwen3-vl.engine.cached" . }}
  qwen3-vl/engine-key: {{ include "qwen3-vl.engine.key" . | quote }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: server
  {{- with merge (dict) .Values.server.podAnnotations .Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Builds or checks: what must be there before the server starts. */}}
{{- define "qwen3-vl.server.initContainers" -}}
{{- if eq .Values.engine.mode "none" }}
{{ include "qwen3-vl.weights.fetch" . }}
# The runtime reads the checkpoint; our models want its manifest and its tokenizer. Seconds.
- name: describe-checkpoint
  {{- include "qwen3-vl.builderImage" . | nindent 2 }}
  args:
    - python3
    - -m
    - build_engine
    - {{ include "qwen3-vl.weights.directory" . }}
    - --target=tensorrt-llm-pytorch
    - --output={{ include "qwen3-vl.engine.directory" . }}
    - --max-batch-size={{ .Values.engine.maxBatchSize }}
    {{- if .Values.engine.maxSeqLen }}
    - --max-seq-len={{ .Values.engine.maxSeqLen }}
    {{- end }}
    - --force
  env:
    {{- include "qwen3-vl.writableHome" . | nindent 4 }}
  securityContext:
    {{- include "qwen3-vl.containerSecurityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 500m, memory: 1Gi}
    limits: {memory: 2Gi}
  volumeMounts:
    {{- include "qwen3-vl.weights.mount" . | nindent 4 }}
    - {name: engines, mountPath: /engines}
    - {name: tmp, mountPath: /tmp}
{{- else if eq .Values.engine.mode "init" }}
{{ include "qwen3-vl.weights.fetch" . }}
- name: build-engines
  {{- include "qwen3-vl.builderImage" . | nindent 2 }}
  args:
    - python3
    - -m
    - build_engine
    - cached
    - {{ include "qwen3-vl.weights.directory" . }}
    {{- include "qwen3-vl.engine.arguments" . | nindent 4 }}
    - --keep={{ .Values.engine.cache.keep }}
  env:
    {{- include "qwen3-vl.writableHome" . | nindent 4 }}
  securityContext:
    {{- include "qwen3-vl.containerSecurityContext" . | nindent 4 }}
  resources:
    {{- include "qwen3-vl.resources" (dict "root" . "resources" .Values.engine.build.resources) | nindent 4 }}
  volumeMounts:
    {{- include "qwen3-vl.weights.mount" . | nindent 4 }}
    - {name: engines, mountPath: /engines}
    - {name: tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
{{- else if eq .Values.engine.mode "job" }}
- name: wait-for-engines
  {{- include "qwen3-vl.builderImage" . | nindent 2 }}
  args:
    - python3
    - -m
    - build_engine
    - cached
    {{- include "qwen3-vl.engine.arguments" . | nindent 4 }}
    - --check-only
    - --wait-s={{ .Values.engine.build.timeoutSeconds }}
  env:
    {{- include "qwen3-vl.writableHome" . | nindent 4 }}
  securityContext:
    {{- include "qwen3-vl.containerSecurityContext" . | nindent 4 }}
  resources:
    {{- include "qwen3-vl.resources" (dict "root" . "resources" (dict "requests" (dict "cpu" "100m" "memory" "256Mi") "limits" (dict "memory" "1Gi"))) | nindent 4 }}
  # No weights: their claim may be tied to the Job's node, and the key has their revision.
  volumeMounts:
    - {name: engines, mountPath: /engines, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end -}}

{{- define "qwen3-vl.server.probes" -}}
startupProbe:
  httpGet: {path: /v2/health/ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ div (mul (int .Values.server.startup.maxMinutes) 60) 5 }}
readinessProbe:
  httpGet: {path: /v2/health/ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
# Loose: a busy server is not a dead one, and a dead process of any model ends the server by itself.
livenessProbe:
  httpGet: {path: /v2/health/live, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 10
{{- end -}}

{{/* The spec of the pod that serves: all of a Deployment's pod, or the leader of a group. */}}
{{- define "qwen3-vl.server.podSpec" -}}
{{ include "qwen3-vl.podDefaults" . }}
terminationGracePeriodSeconds: {{ include "qwen3-vl.server.graceSeconds" . }}
{{- include "qwen3-vl.gpu.scheduling" . }}
{{ include "qwen3-vl.spread" (dict "root" . "component" "server") }}
{{- with include "qwen3-vl.server.initContainers" . | trim }}
initContainers:
  {{- . | nindent 2 }}
{{- end }}
containers:
  - name: server
    {{- include "qwen3-vl.imageLines" (dict "root" . "image" .Values.images.server) | nindent 4 }}
    # No shell and no command of ours: the image's entry point passes SIGTERM on from the first moment.
    args:
      {{- include "qwen3-vl.server.arguments" . | nindent 6 }}
    env:
      {{- include "qwen3-vl.writableHome" . | nindent 6 }}
      {{- if include "qwen3-vl.server.multiNode" . }}
      {{- include "qwen3-vl.server.nodeSecret" . | nindent 6 }}
      {{- end }}
      {{- with .Values.server.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - {name: grpc, containerPort: 8001}
      - {name: http, containerPort: 8000}
      - {name: metrics, containerPort: 8002}
    {{- include "qwen3-vl.server.probes" . | nindent 4 }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ .Values.server.drain.loadBalancerSeconds }}}
    securityContext:
      {{- include "qwen3-vl.containerSecurityContext" . | nindent 6 }}
    resources:
      {{- include "qwen3-vl.resources" (dict "root" . "resources" .Values.server.resources) | nindent 6 }}
    volumeMounts:
      {{- include "qwen3-vl.server.mounts" . | nindent 6 }}
volumes:
  {{- include "qwen3-vl.server.volumes" . | nindent 2 }}
{{- end -}}

{{- define "qwen3-vl.server.arguments" -}}
- python3
- -m
- ensemble
- serve
- --engines={{ include "qwen3-vl.engine.directory" . }}
- --profile={{ .Values.server.profile }}
- --host=0.0.0.0
{{- with .Values.traces.endpoint }}
- --trace-url={{ . }}
{{- end }}
- --ready-timeout={{ mul (int .Values.server.startup.maxMinutes) 60 }}
{{ include "qwen3-vl.server.settings" . | trim }}
{{- end -}}

{{- define "qwen3-vl.server.mounts" -}}
- {name: shm, mountPath: /dev/shm}
- {name: tmp, mountPath: /tmp}
{{- if or (include "qwen3-vl.engine.cached" .) (eq .Values.engine.mode "none") }}
- {name: engines, mountPath: /engines, readOnly: true}
{{- end }}
{{- if eq .Values.engine.mode "none" }}
{{- with include "qwen3-vl.weights.mount" . }}
{{ . }}
{{- end }}
{{- end }}
{{- if and (eq .Values.engine.mode "prebuilt") .Values.engine.cache.existingClaim }}
- {name: engines, mountPath: {{ .Values.engine.path }}, readOnly: true}
{{- end }}
{{- with .Values.server.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "qwen3-vl.server.volumes" -}}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.server.shm.sizeLimit }}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.server.tmpSizeLimit }}}
{{- if eq .Values.engine.mode "init" }}
{{ include "qwen3-vl.engine.volumes" . | trim }}
{{- else if eq .Values.engine.mode "job" }}
- name: engines
  persistentVolumeClaim: {claimName: {{ include "qwen3-vl.engine.claim" . }}}
{{- else if eq .Values.engine.mode "none" }}
- name: engines
  emptyDir: {sizeLimit: 1Gi}
{{- if ne .Values.weights.source "image" }}
- name: weights
  persistentVolumeClaim: {claimName: {{ include "qwen3-vl.weights.claim" . }}}
{{- end }}
{{- else if .Values.engine.cache.existingClaim }}
- name: engines
  persistentVolumeClaim: {claimName: {{ .Values.engine.cache.existingClaim }}, readOnly: true}
{{- end }}
{{- with .Values.server.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Leader and workers of a group know each other by it. */}}
{{- define "qwen3-vl.server.nodeSecret" -}}
- name: QWEN3VL_NODE_SECRET
  valueFrom:
    secretKeyRef: {name: {{ include "qwen3-vl.fullname" . }}-nodes, key: secret}
{{- end -}}

{{/* The pods of the gateway and the worker: one configuration, one image. */}}

{{- define "qwen3-vl.gateway.sidecar" -}}
{{- if and .Values.gateway.enabled (eq .Values.worker.mode "sidecar") (include "qwen3-vl.kafka.address" .) -}}true{{- end -}}
{{- end -}}

{{- define "qwen3-vl.worker.deployed" -}}
{{- if and .Values.gateway.enabled (eq .Values.worker.mode "deployment") (include "qwen3-vl.kafka.address" .) -}}true{{- end -}}
{{- end -}}

{{- define "qwen3-vl.kafka.address" -}}
{{- if .Values.kafka.bootstrapServers -}}
{{ .Values.kafka.bootstrapServers }}
{{- else if .Values.kafka.trial.enabled -}}
{{ include "qwen3-vl.fullname" . }}-kafka:9092
{{- end -}}
{{- end -}}

{{/* Where the model answers: the proxy, or all ready pods by name. */}}
{{- define "qwen3-vl.model.address" -}}
{{- if .Values.proxy.enabled -}}
{{ include "qwen3-vl.fullname" . }}-proxy:9002
{{- else -}}
dns:///{{ include "qwen3-vl.fullname" . }}-server-headless:8001
{{- end -}}
{{- end -}}

{{/* Answers may take triton.timeout_s; the gateway waits for its streams for 130 s (gateway/api/serve.py). */}}
{{- define "qwen3-vl.gateway.graceSeconds" -}}
{{- $own := add (int .Values.gateway.drain.unreadySeconds) 130 10 -}}
{{- /* A worker beside it ends with the pod. */ -}}
{{- ternary (max $own (int (include "qwen3-vl.worker.graceSeconds" .))) $own (ne (include "qwen3-vl.gateway.sidecar" .) "") -}}
{{- end -}}

{{- define "qwen3-vl.worker.graceSeconds" -}}
{{- add (int .Values.worker.drain.inFlightSeconds) 15 -}}
{{- end -}}

{{/* gateway/settings.py as YAML; what the user writes in gateway.config goes over it. */}}
{{- define "qwen3-vl.gateway.config" -}}
{{- $config := dict
  "http" (dict "host" "0.0.0.0" "port" 7860)
  "triton" (dict "url" (include "qwen3-vl.model.address" .))
  "profile" .Values.gateway.profile
  "media" (dict "mask" (gt (int (default 0 .Values.server.settings.ocr_instances)) 0))
  "knowledge" (dict "database" "/var/lib/qwen3vl/knowledge/articles.db")
  "objects" (ternary (dict "url" .Values.gateway.objects.url "s3_endpoint" .Values.gateway.objects.endpoint) (dict "url" "/var/lib/qwen3vl/state/objects") (eq .Values.gateway.objects.kind "s3"))
  "kafka" (dict
    "bootstrap_servers" (include "qwen3-vl.kafka.address" .)
    "drain_s" .Values.worker.drain.inFlightSeconds
    "worker_host" "0.0.0.0" "worker_port" 7861) -}}
{{- with .Values.traces.endpoint -}}
{{- $_ := set $config "telemetry" (dict "otlp_endpoint" .) -}}
{{- end -}}
{{- if .Values.kafka.security -}}
{{- $_ := set $config.kafka "security" .Values.kafka.security -}}
{{- end -}}
{{- if eq .Values.gateway.database.kind "sqlite" -}}
{{- $_ := set $config "database" (dict "url" "sqlite:////var/lib/qwen3vl/state/gateway.db") -}}
{{- end -}}
{{- if .Values.valkey.trial.enabled -}}
{{- $_ := set $config "cache" (dict "url" (printf "redis://%s-valkey:6379/0" (include "qwen3-vl.fullname" .))) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.gateway.config)) -}}
{{- end -}}

{{/* Labels and annotations; a changed configuration makes new pods. dict root, component, of. */}}
{{- define "qwen3-vl.gateway.podMetadata" -}}
labels:
  {{- include "qwen3-vl.labels" . | nindent 2 }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .component }}
  checksum/config: {{ include "qwen3-vl.gateway.config" .root | sha256sum }}
  {{- with merge (dict) .of.podAnnotations .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What gateway and worker containers have alike. */}}
{{- define "qwen3-vl.gateway.container" -}}
{{ include "qwen3-vl.imageLines" (dict "root" . "image" .Values.images.gateway) }}
{{- with .Values.gateway.objects.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
env:
  {{- include "qwen3-vl.writableHome" . | nindent 2 }}
  - {name: GATEWAY_CONFIG, value: /etc/qwen3vl/gateway.yaml}
  {{- with .Values.gateway.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  {{- include "qwen3-vl.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/qwen3vl, readOnly: true}
  - {name: knowledge, mountPath: /var/lib/qwen3vl/knowledge}
  - {name: state, mountPath: /var/lib/qwen3vl/state}
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.gateway.existingSecret }}
  - {name: secrets, mountPath: /run/secrets, readOnly: true}
  {{- end }}
{{- end -}}

{{/* Articles are read at the start of each pod: no shared file that two would write. */}}
{{- define "qwen3-vl.knowledge.initContainers" -}}
{{- $sources := .Values.knowledge.sources -}}
{{- if .Values.knowledge.sample -}}
{{- $sources = prepend $sources (dict "name" "sample") -}}
{{- end -}}
{{- range $source := $sources }}
- name: articles-{{ $source.name }}
  {{- include "qwen3-vl.imageLines" (dict "root" $ "image" $.Values.images.gateway) | nindent 2 }}
  args:
    - python3
    - -m
    - gateway
    - kb
    - add
    - --database=/var/lib/qwen3vl/knowledge/articles.db
    {{- if eq $source.name "sample" }}
    - --sample
    {{- else }}
    - /articles/{{ default "" $source.path | trimPrefix "/" }}
    {{- end }}
    {{- with $source.tenant }}
    - --tenant={{ . }}
    {{- end }}
    {{- with $source.scope }}
    - --scope={{ . }}
    {{- end }}
  env:
    {{- include "qwen3-vl.writableHome" $ | nindent 4 }}
  securityContext:
    {{- include "qwen3-vl.containerSecurityContext" $ | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {memory: 512Mi}
  volumeMounts:
    - {name: knowledge, mountPath: /var/lib/qwen3vl/knowledge}
    - {name: tmp, mountPath: /tmp}
    {{- if ne $source.name "sample" }}
    - {name: articles-{{ $source.name }}, mountPath: /articles, readOnly: true}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "qwen3-vl.gateway.volumes" -}}
- name: config
  configMap: {name: {{ include "qwen3-vl.fullname" . }}-gateway}
- name: knowledge
  emptyDir: {sizeLimit: 2Gi}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
- name: state
  {{- if .Values.gateway.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ include "qwen3-vl.fullname" . }}-gateway-state}
  {{- else }}
  emptyDir: {sizeLimit: 10Gi}
  {{- end }}
{{- with .Values.gateway.existingSecret }}
- name: secrets
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- range .Values.knowledge.sources }}
- name: articles-{{ .name }}
  {{- if .configMap }}
  configMap: {name: {{ .configMap }}}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ .claim }}, readOnly: true}
  {{- end }}
{{- end }}
{{- end -}}

{{/* dict root, resources: the container that answers tickets. */}}
{{- define "qwen3-vl.worker.container" -}}
- name: worker
  {{- include "qwen3-vl.gateway.container" . | nindent 2 }}
  args: [python3, -m, gateway, worker]
  ports:
    - {name: worker, containerPort: 7861}
  startupProbe:
    httpGet: {path: /healthz, port: worker}
    periodSeconds: 2
    failureThreshold: 60
  readinessProbe:
    httpGet: {path: /readyz, port: worker}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 3
  livenessProbe:
    httpGet: {path: /healthz, port: worker}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  resources:
    {{- toYaml .Values.worker.resources | nindent 4 }}
{{- end -}}

{{/* Names, labels, images, and what every pod has alike. */}}

{{- define "qwen3-vl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: the longest suffix has 22, and a label holds 63. */}}
{{- define "qwen3-vl.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "qwen3-vl.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* dict root, component: what never changes, so that selectors may use it. */}}
{{- define "qwen3-vl.selectorLabels" -}}
app.kubernetes.io/name: {{ include "qwen3-vl.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "qwen3-vl.labels" -}}
{{ include "qwen3-vl.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* dict root, component, suffix (default: component), labels, annotations: the metadata of an object. */}}
{{- define "qwen3-vl.metadata" -}}
name: {{ include "qwen3-vl.fullname" .root }}-{{ default .component .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "qwen3-vl.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* dict root, image: REGISTRY/REPOSITORY@DIGEST or :TAG. */}}
{{- define "qwen3-vl.image" -}}
{{- $image := .image -}}
{{- with .root.Values.global.imageRegistry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- if .root.Values.global.imageRegistry -}}
{{- $image.repository | trimPrefix "docker.io/" -}}
{{- else -}}
{{- $image.repository -}}
{{- end -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* dict root, image (and default): an image that takes what it lacks from another one. */}}
{{- define "qwen3-vl.imageLines" -}}
image: {{ include "qwen3-vl.image" . | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
{{- end -}}

{{- define "qwen3-vl.builderImage" -}}
{{- $image := ternary .Values.images.builder .Values.images.server (ne .Values.images.builder.repository "") -}}
{{- include "qwen3-vl.imageLines" (dict "root" . "image" $image) -}}
{{- end -}}

{{- define "qwen3-vl.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "qwen3-vl.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "qwen3-vl.podSecurityContext" -}}
{{- toYaml .Values.podSecurityContext -}}
{{- end -}}

{{- define "qwen3-vl.containerSecurityContext" -}}
{{- toYaml .Values.containerSecurityContext -}}
{{- end -}}

{{/* root: what every pod's spec begins with. */}}
{{- define "qwen3-vl.podDefaults" -}}
serviceAccountName: {{ include "qwen3-vl.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "qwen3-vl.podSecurityContext" . | nindent 2 }}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* dict root, component, and the component's values as `of`: where its pods go. */}}
{{- define "qwen3-vl.scheduling" -}}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{ include "qwen3-vl.spread" . }}
{{- end -}}

{{/* dict root, component: over hosts and zones where there are several; one host alone still works. */}}
{{- define "qwen3-vl.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "qwen3-vl.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* Everything that a library may want to write at run time goes to /tmp, also under a user without a home. */}}
{{- define "qwen3-vl.writableHome" -}}
- {name: HOME, value: /tmp}
- {name: USER, value: qwen3vl}
- {name: XDG_CACHE_HOME, value: /tmp/.cache}
- {name: HF_HOME, value: /tmp/.huggingface}
- {name: MPLCONFIGDIR, value: /tmp/.matplotlib}
- {name: NUMBA_CACHE_DIR, value: /tmp/.numba}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /tmp/.inductor}
- {name: TRITON_CACHE_DIR, value: /tmp/.triton}
{{- end -}}

{{/* dict root, component: one PodDisruptionBudget. One pod at a time, so a drain of a node always goes on. */}}
{{- define "qwen3-vl.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "qwen3-vl.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "qwen3-vl.selectorLabels" . | nindent 6 }}
{{- end -}}

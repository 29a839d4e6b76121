{{/* What is scraped, and the labels that every series gets. */}}

{{- define "qwen3-vl.relabelings" }}
- {sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance], targetLabel: release}
- {sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_component], targetLabel: component}
{{- end }}

{{- define "qwen3-vl.scraped" }}
server: [{port: metrics, path: /metrics}]
{{- if .Values.gateway.enabled }}
gateway:
  - {port: http, path: /metrics}
  {{- if include "qwen3-vl.gateway.sidecar" . }}
  - {port: worker, path: /metrics}
  {{- end }}
{{- end }}
{{- if include "qwen3-vl.worker.deployed" . }}
worker: [{port: worker, path: /metrics}]
{{- end }}
{{- if .Values.proxy.enabled }}
proxy: [{port: metrics, path: /stats/prometheus}]
{{- end }}
{{- end }}

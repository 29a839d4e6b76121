{{/* What says that servers are too few: waiting requests and the KV cache, under the metric names of both targets. */}}

{{- define "qwen3-vl.scaling.labels" -}}
namespace="{{ .Release.Namespace }}",release="{{ .Release.Name }}"
{{- end -}}

{{- define "qwen3-vl.scaling.waiting" -}}
{{- $labels := include "qwen3-vl.scaling.labels" . -}}
{{- if and (eq .Values.target "tensorrt-llm") (ne .Values.engine.mode "none") -}}
sum(nv_trt_llm_request_metrics{request_type="waiting",{{ $labels }}}) or vector(0)
{{- else if eq .Values.engine.mode "none" -}}
{{- /* The PyTorch runtime publishes no queue: Triton's own count of what it has accepted and not begun. */ -}}
sum(nv_inference_pending_request_count{model="tensorrt_llm",{{ $labels }}}) or vector(0)
{{- else -}}
sum(qwen3vl_waiting_sequences{ {{- $labels -}} }) or vector(0)
{{- end -}}
{{- end -}}

{{/* The fullest server, in percent. */}}
{{- define "qwen3-vl.scaling.kv" -}}
{{- $labels := include "qwen3-vl.scaling.labels" . -}}
{{- if eq .Values.target "tensorrt-llm" -}}
100 * avg(nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",{{ $labels }}}) or vector(0)
{{- else -}}
100 * sum(qwen3vl_kv_blocks_in_use{ {{- $labels -}} }) / sum(qwen3vl_kv_blocks_total{ {{- $labels -}} }) or vector(0)
{{- end -}}
{{- end -}}

{{/* Questions that reach the proxy: the only sign of life while no server runs. Not the polls of readiness probes. The client asks
ServerLive before a question. The second half counts a series that has just appeared, whose increase() is 0. */}}
{{- define "qwen3-vl.scaling.arrivals" -}}
{{- $labels := include "qwen3-vl.scaling.labels" . -}}
{{- $calls := printf "grpc_method=~\"ServerLive|ModelInfer|ModelStreamInfer\",%s" $labels -}}
(sum(increase(envoy_cluster_grpc_total{ {{- $calls -}} }[2m])) or vector(0)) + (sum(envoy_cluster_grpc_total{ {{- $calls -}} } unless envoy_cluster_grpc_total{ {{- $labels -}} } offset 2m) or vector(0))
{{- end -}}

{{- define "qwen3-vl.scaling.target" -}}
{{- if include "qwen3-vl.server.multiNode" . -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
{{- else -}}
apiVersion: apps/v1
kind: Deployment
{{- end }}
name: {{ include "qwen3-vl.fullname" . }}-server
{{- end -}}

{{/* Up at once, down slowly: loading takes minutes. */}}
{{- define "qwen3-vl.scaling.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Pods, value: 2, periodSeconds: 60}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 120}
{{- end -}}

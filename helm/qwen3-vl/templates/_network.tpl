{{/* Peers and rules that several NetworkPolicies have. */}}

{{- define "qwen3-vl.peer" }}
- podSelector:
    matchLabels:
      {{- include "qwen3-vl.selectorLabels" . | nindent 6 }}
{{- end }}

{{- define "qwen3-vl.metricsPeers" }}
{{- with .Values.networkPolicy.metricsFrom }}
{{ toYaml . }}
{{- else }}
- namespaceSelector: {}
{{- end }}
{{- end }}

{{- define "qwen3-vl.dnsRule" }}
# Any address: some clusters answer DNS on the node.
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

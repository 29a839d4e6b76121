{{/* The pods of Locust, master and worker. */}}

{{- define "qwen3-vl.loadtest.pod" }}
metadata:
  labels:
    {{- include "qwen3-vl.labels" (dict "root" .root "component" "loadtest") | nindent 4 }}
    qwen3-vl/role: {{ .role }}
spec:
  {{- include "qwen3-vl.podDefaults" .root | nindent 2 }}
  containers:
    - name: locust
      {{- include "qwen3-vl.imageLines" (dict "root" .root "image" .root.Values.images.loadtest) | nindent 6 }}
      args:
        - locust
        - -f
        - loadtests/locustfile.py
        {{- toYaml .arguments | nindent 8 }}
      env:
        {{- include "qwen3-vl.writableHome" .root | nindent 8 }}
        - {name: LOADTESTS_TARGET, value: {{ include "qwen3-vl.model.address" .root | quote }}}
        - {name: LOADTESTS_SCENARIO, value: {{ .root.Values.loadtest.scenario | quote }}}
        {{- with .root.Values.loadtest.ladder }}
        - {name: LOADTESTS_LADDER, value: {{ . | quote }}}
        {{- end }}
        - {name: LOADTESTS_DURATION, value: {{ .root.Values.loadtest.durationSeconds }}s}
        - {name: LOADTESTS_RUN_JSON, value: /tmp/run.json}
      {{- with .ports }}
      ports:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "qwen3-vl.containerSecurityContext" .root | nindent 8 }}
      resources:
        {{- toYaml .root.Values.loadtest.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 2Gi}
{{- end }}

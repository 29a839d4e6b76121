{{/* The pods of `helm test`. */}}

{{- define "qwen3-vl.test" }}
apiVersion: v1
kind: Pod
metadata:
  {{- include "qwen3-vl.metadata" (dict "root" .root "component" "test" "suffix" (printf "test-%s" .name) "annotations" (dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded")) | nindent 2 }}
spec:
  {{- include "qwen3-vl.podDefaults" .root | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: ask
      {{- include "qwen3-vl.imageLines" (dict "root" .root "image" .root.Values.images.loadtest) | nindent 6 }}
      args:
        {{- toYaml .arguments | nindent 8 }}
      env:
        {{- include "qwen3-vl.writableHome" .root | nindent 8 }}
        - {name: QWEN3VL_SERVER, value: "{{ include "qwen3-vl.model.address" .root }}"}
      securityContext:
        {{- include "qwen3-vl.containerSecurityContext" .root | nindent 8 }}
      resources:
        requests: {cpu: 100m, memory: 128Mi}
        limits: {memory: 512Mi}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: pictures, mountPath: /pictures, readOnly: true}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    - name: pictures
      configMap: {name: {{ include "qwen3-vl.fullname" .root }}-test-pictures}
{{- end }}

{{/* What a schema cannot say: values that are right alone and wrong together. Each message names the field, what it is, and what to do. */}}

{{- define "qwen3-vl.validate" -}}
{{- $faults := list -}}
{{- $gpu := eq .Values.target "tensorrt-llm" -}}
{{- $e := .Values.engine -}}
{{- $w := .Values.weights -}}

{{- if and (eq $e.mode "none") (not $gpu) -}}
{{- $faults = append $faults "engine.mode: got none with target openvino, allowed: prebuilt, job, init. Only the PyTorch runtime of tensorrt-llm runs without engines" -}}
{{- end -}}
{{- if and (eq $e.mode "none") (ne .Values.server.profile "gpu-pytorch") -}}
{{- $faults = append $faults (printf "server.profile: got %s with engine.mode none, allowed: gpu-pytorch" .Values.server.profile) -}}
{{- end -}}
{{- if and $gpu (eq .Values.server.profile "cpu") -}}
{{- $faults = append $faults "server.profile: got cpu with target tensorrt-llm, allowed: gpu, gpu-l4, gpu-l40s, gpu-a100, gpu-h100, gpu-h200, gpu-pytorch" -}}
{{- end -}}
{{- if and (not $gpu) (ne .Values.server.profile "cpu") -}}
{{- $faults = append $faults (printf "server.profile: got %s with target openvino, allowed: cpu" .Values.server.profile) -}}
{{- end -}}
{{- $formats := ternary (list "bf16" "fp16" "fp8" "int8" "int4" "int8_sq" "int4_awq" "w4a8_awq" "gptq") (list "int8" "int4" "bf16" "f32") $gpu -}}
{{- if not (has $e.weights $formats) -}}
{{- $faults = append $faults (printf "engine.weights: got %s with target %s, allowed: %s" $e.weights .Values.target (join ", " $formats)) -}}
{{- end -}}
{{- if and (eq $e.kvCacheDtype "fp8") (not (has $e.weights (list "fp8" "w4a8_awq"))) -}}
{{- $faults = append $faults (printf "engine.kvCacheDtype: got fp8 with engine.weights %s, allowed with fp8 and w4a8_awq: other weights lose KV reuse and chunked prefill" $e.weights) -}}
{{- end -}}
{{- if and $gpu (gt (mod (int $e.tpSize) (int .Values.gpu.count)) 0) (gt (int $e.tpSize) (int .Values.gpu.count)) -}}
{{- $faults = append $faults (printf "engine.tpSize: got %v with gpu.count %v, allowed: a multiple of gpu.count when ranks span pods" $e.tpSize .Values.gpu.count) -}}
{{- end -}}
{{- if and $gpu (lt (int $e.tpSize) (int .Values.gpu.count)) (ne $e.mode "none") -}}
{{- $faults = append $faults (printf "gpu.count: got %v with engine.tpSize %v, allowed: at most tpSize; GPUs beyond it would stand idle" .Values.gpu.count $e.tpSize) -}}
{{- end -}}
{{- if and (not $gpu) (gt (int $e.tpSize) 1) -}}
{{- $faults = append $faults (printf "engine.tpSize: got %v with target openvino, allowed: 1" $e.tpSize) -}}
{{- end -}}
{{- if and (include "qwen3-vl.server.multiNode" .) (eq $e.mode "init") -}}
{{- $faults = append $faults "engine.mode: got init with tensor parallelism over pods, allowed: job, prebuilt" -}}
{{- end -}}

{{- if and (has $w.source (list "huggingface" "s3")) (not $w.repository) (ne $e.mode "prebuilt") -}}
{{- $faults = append $faults (printf "weights.repository: got nothing with weights.source %s, allowed: %s" $w.source (ternary "ORG/NAME" "BUCKET/PREFIX" (eq $w.source "huggingface"))) -}}
{{- end -}}
{{- if and (eq $w.source "claim") (not $w.claim.existing) (ne $e.mode "prebuilt") -}}
{{- $faults = append $faults "weights.claim.existing: got nothing with weights.source claim, allowed: the name of a claim that holds the weights" -}}
{{- end -}}
{{- if and $w.offline (has $w.source (list "huggingface" "s3")) (not $w.claim.existing) (ne $e.mode "prebuilt") -}}
{{- $faults = append $faults "weights.claim.existing: got nothing with weights.offline, allowed: a claim that was filled before; nothing will be fetched" -}}
{{- end -}}

{{- $many := or (ne .Values.autoscaling.mode "none") (gt (int .Values.server.replicas) 1) -}}
{{- if and (include "qwen3-vl.engine.cached" .) (not $e.cache.existingClaim) (or $many (eq $e.mode "job")) (not (has "ReadWriteMany" $e.cache.accessModes)) -}}
{{- $faults = append $faults (printf "engine.cache.accessModes: got %s with %s, allowed: [ReadWriteMany], or an engine.cache.existingClaim" (join ", " $e.cache.accessModes) (ternary "several servers" "engine.mode job" $many)) -}}
{{- end -}}
{{- if and (has $e.mode (list "init" "none")) (include "qwen3-vl.weights.downloaded" .) (not $w.claim.existing) $many (not (has "ReadWriteMany" $w.claim.accessModes)) -}}
{{- $faults = append $faults (printf "weights.claim.accessModes: got %s with several servers that read them (engine.mode %s), allowed: [ReadWriteMany], or a weights.claim.existing" (join ", " $w.claim.accessModes) $e.mode) -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- $faults = append $faults (printf "autoscaling.minReplicas: got %v, allowed: at most autoscaling.maxReplicas (%v)" .Values.autoscaling.minReplicas .Values.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and (eq (int .Values.autoscaling.minReplicas) 0) (ne .Values.autoscaling.mode "keda") -}}
{{- $faults = append $faults (printf "autoscaling.minReplicas: got 0 with autoscaling.mode %s, allowed with keda only" .Values.autoscaling.mode) -}}
{{- end -}}
{{- if and (eq (int .Values.autoscaling.minReplicas) 0) (eq .Values.autoscaling.mode "keda") (not .Values.proxy.enabled) -}}
{{- $faults = append $faults "proxy.enabled: got false with autoscaling.minReplicas 0, allowed: true; only the proxy sees requests while no server runs" -}}
{{- end -}}
{{- $g := .Values.gateway.autoscaling -}}
{{- if gt (int $g.minReplicas) (int $g.maxReplicas) -}}
{{- $faults = append $faults (printf "gateway.autoscaling.minReplicas: got %v, allowed: at most gateway.autoscaling.maxReplicas (%v)" $g.minReplicas $g.maxReplicas) -}}
{{- end -}}
{{- $a := .Values.worker.autoscaling -}}
{{- if gt (int $a.minReplicas) (int $a.maxReplicas) -}}
{{- $faults = append $faults (printf "worker.autoscaling.minReplicas: got %v, allowed: at most worker.autoscaling.maxReplicas (%v)" $a.minReplicas $a.maxReplicas) -}}
{{- end -}}

{{- if .Values.gateway.enabled -}}
{{- $several := or .Values.gateway.autoscaling.enabled (gt (int .Values.gateway.replicas) 1) -}}
{{- if and (eq .Values.gateway.database.kind "sqlite") $several -}}
{{- $faults = append $faults "gateway.database.kind: got sqlite with several gateway pods, allowed: external (database__url in gateway.existingSecret)" -}}
{{- end -}}
{{- if and (eq .Values.gateway.database.kind "sqlite") (eq .Values.worker.mode "deployment") -}}
{{- $faults = append $faults "worker.mode: got deployment with gateway.database.kind sqlite, allowed: sidecar, off; other pods do not see the file" -}}
{{- end -}}
{{- if and (eq .Values.gateway.database.kind "external") (not .Values.gateway.existingSecret) -}}
{{- $faults = append $faults "gateway.existingSecret: got nothing with gateway.database.kind external, allowed: a secret with database__url" -}}
{{- end -}}
{{- if and (eq .Values.gateway.objects.kind "volume") (or $several (eq .Values.worker.mode "deployment")) -}}
{{- $faults = append $faults "gateway.objects.kind: got volume with several pods that need the pictures, allowed: s3" -}}
{{- end -}}
{{- if and (eq .Values.gateway.objects.kind "s3") (not (hasPrefix "s3://" .Values.gateway.objects.url)) -}}
{{- $faults = append $faults (printf "gateway.objects.url: got %q with gateway.objects.kind s3, allowed: s3://BUCKET/PREFIX" .Values.gateway.objects.url) -}}
{{- end -}}
{{- if and .Values.gateway.persistence.enabled (eq .Values.gateway.database.kind "external") -}}
{{- $faults = append $faults "gateway.persistence.enabled: got true with gateway.database.kind external, allowed: false; the claim is for SQLite and its objects" -}}
{{- end -}}
{{- if and (eq .Values.worker.mode "deployment") (not (include "qwen3-vl.kafka.address" .)) -}}
{{- $faults = append $faults "kafka.bootstrapServers: got nothing with worker.mode deployment, allowed: HOST:PORT of a broker, or kafka.trial.enabled" -}}
{{- end -}}
{{- if and .Values.worker.autoscaling.enabled (ne .Values.worker.mode "deployment") -}}
{{- $faults = append $faults (printf "worker.autoscaling.enabled: got true with worker.mode %s, allowed with deployment" .Values.worker.mode) -}}
{{- end -}}
{{- range .Values.knowledge.sources -}}
{{- if eq (empty .configMap) (empty .claim) -}}
{{- $faults = append $faults (printf "knowledge.sources: %s has %s, allowed: either configMap or claim" .name (ternary "neither" "both" (empty .claim))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and .Values.proxy.enabled (ne .Values.proxy.tls.mode "none") (not .Values.proxy.tls.existingSecret) -}}
{{- $faults = append $faults (printf "proxy.tls.existingSecret: got nothing with proxy.tls.mode %s, allowed: a secret with tls.crt and tls.key%s" .Values.proxy.tls.mode (ternary " and ca.crt" "" (eq .Values.proxy.tls.mode "mtls"))) -}}
{{- end -}}
{{- if and .Values.proxy.tls.allowedClients (ne .Values.proxy.tls.mode "mtls") -}}
{{- $faults = append $faults (printf "proxy.tls.allowedClients: got names with proxy.tls.mode %s, allowed with mtls" .Values.proxy.tls.mode) -}}
{{- end -}}
{{- if and .Values.proxy.enabled (gt (int .Values.proxy.retryBufferMiB) 0) (gt (mul (int .Values.proxy.retryBufferMiB) 1048576 4) (int64 (include "qwen3-vl.bytes" .Values.proxy.resources.limits.memory))) -}}
{{- $faults = append $faults (printf "proxy.retryBufferMiB: got %v with a memory limit of %s, allowed: at most a quarter of it" .Values.proxy.retryBufferMiB .Values.proxy.resources.limits.memory) -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- $faults = append $faults "metrics.serviceMonitor.enabled: got true beside metrics.podMonitor.enabled, allowed: one of them; two count every request twice" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.gateway.enabled) -}}
{{- $faults = append $faults "ingress.enabled: got true with gateway.enabled false, allowed: false; grpcRoute leads to the model" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.gateway.enabled) -}}
{{- $faults = append $faults "httpRoute.enabled: got true with gateway.enabled false, allowed: false; grpcRoute leads to the model" -}}
{{- end -}}
{{- range $name := list "httpRoute" "grpcRoute" -}}
{{- $route := index $.Values $name -}}
{{- if and $route.enabled (not $route.parentRefs) -}}
{{- $faults = append $faults (printf "%s.parentRefs: got nothing, allowed: at least one Gateway ({name: ...})" $name) -}}
{{- end -}}
{{- end -}}
{{- with .Values.traces.endpoint -}}
{{- if not (regexMatch ":[0-9]+/?$" .) -}}
{{- $faults = append $faults (printf "traces.endpoint: got %s, allowed: with a port, such as http://otel-collector.monitoring.svc:4318" .) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "exit_timeout_s" "engines" "engine_hash" -}}
{{- if hasKey $.Values.server.settings $name -}}
{{- $faults = append $faults (printf "server.settings.%s: not here; it follows from %s" $name (ternary "server.drain.inFlightSeconds" "engine" (eq $name "exit_timeout_s"))) -}}
{{- end -}}
{{- end -}}
{{- if and (has "ALL" (dig "capabilities" "add" list .Values.containerSecurityContext)) -}}
{{- $faults = append $faults "containerSecurityContext.capabilities.add: got ALL, allowed: nothing; no component needs a capability" -}}
{{- end -}}

{{- if $faults -}}
{{- fail (printf "\n\n%s\n" (join "\n" $faults)) -}}
{{- end -}}
{{- end -}}

{{/* Envoy's configuration, as YAML. The Envoy reference calls its parts by the same names. */}}

{{/* How long a deleted pod goes on: balancers forget it, running answers finish. */}}
{{- define "qwen3-vl.proxy.drainSeconds" -}}
{{- add (int .Values.server.drain.loadBalancerSeconds) (int .Values.server.drain.inFlightSeconds) -}}
{{- end -}}

{{/* Bytes of a quantity, as the schema allows it. */}}
{{- define "qwen3-vl.bytes" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- mulf (float64 $number) (index $units (toString . | trimPrefix $number)) | floor | int64 -}}
{{- end -}}

{{/* What callers may call: inference, health, and what a model is. */}}
{{- define "qwen3-vl.proxy.calls" -}}
inference.GRPCInferenceService: [ServerLive, ServerReady, ServerMetadata, ModelReady, ModelMetadata, ModelConfig, ModelInfer, ModelStreamInfer]
grpc.health.v1.Health: [Check]
{{- end -}}

{{- define "qwen3-vl.proxy.config" -}}
# Certificates from files want names.
node: {id: proxy, cluster: {{ include "qwen3-vl.fullname" . }}}
# A heap that nears the container's limit refuses requests; the kernel would kill the streams of everybody.
overload_manager:
  resource_monitors:
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        max_heap_size_bytes: {{ include "qwen3-vl.bytes" .Values.proxy.resources.limits.memory }}
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: {{ .Values.proxy.limits.maxClientConnections }}
  actions:
    - name: envoy.overload_actions.shrink_heap
      triggers:
        - {name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.8}}
    - name: envoy.overload_actions.stop_accepting_requests
      triggers:
        - {name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}
# envoy_cluster_grpc_total{grpc_method="ModelStreamInfer"}, not a metric for each method; Envoy's own tag takes the service's
# name to end at its first dot.
stats_config:
  stats_tags:
    - tag_name: grpc_method
      regex: '^cluster\.server\.grpc\.(?:inference\.GRPCInferenceService|grpc\.health\.v1\.Health)\.((\w+)\.)'
# Whoever reaches it commands the proxy: the loopback only.
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 9900}}
static_resources:
  listeners:
    {{- include "qwen3-vl.proxy.model" (dict "root" . "name" "grpc" "port" 9001 "tls" .Values.proxy.tls.mode) | nindent 4 }}
    # Plain, for the pods of this release, as the servers' own port is; NetworkPolicy keeps others out.
    {{- include "qwen3-vl.proxy.model" (dict "root" . "name" "internal" "port" 9002 "tls" "none") | nindent 4 }}
    {{- include "qwen3-vl.proxy.metrics" . | nindent 4 }}
    {{- include "qwen3-vl.proxy.drain" . | nindent 4 }}
  clusters:
    {{- include "qwen3-vl.proxy.server" . | nindent 4 }}
    - name: admin
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9900}}}
{{- end -}}

{{/* dict root, name, port, tls: a port that takes the model's calls. */}}
{{- define "qwen3-vl.proxy.model" -}}
{{- $proxy := .root.Values.proxy -}}
- name: {{ .name }}
  address: {socket_address: {address: 0.0.0.0, port_value: {{ .port }}}}
  per_connection_buffer_limit_bytes: 1048576
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: model
            codec_type: HTTP2
            http2_protocol_options:
              max_concurrent_streams: {{ $proxy.limits.maxRequests }}
              initial_stream_window_size: 4194304
              initial_connection_window_size: 16777216
              # A caller that vanished without a word: its answers end, which frees the GPU.
              connection_keepalive: {interval: 60s, timeout: 20s}
            # Minutes of waiting and of silence between tokens are allowed; a request as a whole has no limit.
            stream_idle_timeout: {{ $proxy.streamIdleSeconds }}s
            request_headers_timeout: 10s
            use_remote_address: true
            server_header_transformation: PASS_THROUGH
            {{- if $proxy.accessLog }}
            {{- include "qwen3-vl.proxy.accessLog" . | nindent 12 }}
            {{- end }}
            route_config:
              {{- include "qwen3-vl.proxy.routes" .root | nindent 14 }}
            http_filters:
              # Codes of gRPC: its HTTP status is always 200.
              - name: envoy.filters.http.grpc_stats
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
                  emit_filter_state: true
                  individual_method_stats_allowlist:
                    services:
                      {{- range $service, $calls := include "qwen3-vl.proxy.calls" .root | fromYaml }}
                      - name: {{ $service }}
                        method_names: {{ toJson $calls }}
                      {{- end }}
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
      {{- if ne .tls "none" }}
      transport_socket:
        {{- include "qwen3-vl.proxy.tls" . | nindent 8 }}
      {{- end }}
{{- end -}}

{{/* Certificates come by SDS from files, so that a renewed secret is taken without a restart. */}}
{{- define "qwen3-vl.proxy.tls" -}}
name: envoy.transport_sockets.tls
typed_config:
  "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
  require_client_certificate: {{ eq .tls "mtls" }}
  common_tls_context:
    tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
    alpn_protocols: [h2]
    tls_certificate_sds_secret_configs:
      - name: certificate
        sds_config:
          resource_api_version: V3
          path_config_source: {path: /etc/envoy/certificate.yaml}
    {{- if eq .tls "mtls" }}
    combined_validation_context:
      {{- with .root.Values.proxy.tls.allowedClients }}
      default_validation_context:
        match_typed_subject_alt_names:
          {{- range . }}
          - {san_type: DNS, matcher: {exact: {{ . | quote }}}}
          {{- end }}
      {{- else }}
      default_validation_context: {}
      {{- end }}
      validation_context_sds_secret_config:
        name: authority
        sds_config:
          resource_api_version: V3
          path_config_source: {path: /etc/envoy/authority.yaml}
    {{- end }}
{{- end -}}

{{- define "qwen3-vl.proxy.certificate" -}}
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: certificate
    tls_certificate:
      certificate_chain: {filename: /etc/envoy-tls/tls.crt}
      private_key: {filename: /etc/envoy-tls/tls.key}
      # kubelet renews a mounted secret by renaming `..data` in it.
      watched_directory: {path: /etc/envoy-tls}
{{- end -}}

{{- define "qwen3-vl.proxy.authority" -}}
resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: authority
    validation_context:
      trusted_ca: {filename: /etc/envoy-tls/ca.crt}
      watched_directory: {path: /etc/envoy-tls}
{{- end -}}

{{- define "qwen3-vl.proxy.routes" -}}
name: model
virtual_hosts:
  - name: model
    domains: ["*"]
    # Kept until the answer begins, so that it can be sent to another server; a larger request is sent once.
    request_body_buffer_limit: {{ mul (int .Values.proxy.retryBufferMiB) 1048576 }}
    # Triton 2.51 dies of a refused stream with this header.
    request_headers_to_remove: [triton_grpc_error]
    retry_policy:
      retry_on: connect-failure,refused-stream,reset-before-request,unavailable
      num_retries: 3
      retry_back_off: {base_interval: 0.025s, max_interval: 0.25s}
      retry_host_predicate:
        - name: envoy.retry_host_predicates.previous_hosts
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
      # A dead server has the fewest requests: most draws find it again, and drawing costs next to nothing.
      host_selection_retry_max_attempts: 200
    routes:
      {{- range $service, $calls := include "qwen3-vl.proxy.calls" . | fromYaml }}
      {{- range $calls }}
      - match: {path: /{{ $service }}/{{ . }}}
        route: {cluster: server, timeout: 0s}
      {{- end }}
      {{- end }}
      # 403 is PERMISSION_DENIED in gRPC. All else: the model repository, shared memory, traces, logs, statistics.
      - match: {prefix: /}
        direct_response: {status: 403, body: {inline_string: this call is not open to callers}}
{{- end -}}

{{- define "qwen3-vl.proxy.accessLog" -}}
access_log:
  - name: envoy.access_loggers.stdout
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
      # Nothing of what is said: no bodies, no headers of callers.
      log_format:
        json_format:
          time: "%START_TIME%"
          path: "%REQ(:PATH)%"
          code: "%RESPONSE_CODE%"
          grpc: "%GRPC_STATUS%"
          flags: "%RESPONSE_FLAGS%"
          details: "%RESPONSE_CODE_DETAILS%"
          duration_ms: "%DURATION%"
          first_byte_ms: "%RESPONSE_DURATION%"
          bytes_received: "%BYTES_RECEIVED%"
          bytes_sent: "%BYTES_SENT%"
          attempts: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"
          server: "%UPSTREAM_HOST%"
          caller: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
          certificate: "%DOWNSTREAM_PEER_SUBJECT%"
{{- end -}}

{{- define "qwen3-vl.proxy.server" -}}
{{- $limits := .Values.proxy.limits -}}
- name: server
  # The headless service names every ready pod.
  cluster_type:
    name: envoy.clusters.dns
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
      dns_lookup_family: V4_PREFERRED
      # The time to live says how old a name may be; where it says nothing, ask often.
      respect_dns_ttl: true
      dns_refresh_rate: 3s
      dns_min_refresh_rate: 1s
      dns_failure_refresh_rate: {base_interval: 1s, max_interval: 3s}
  # A pod that is going away passes its health checks to the end; its name has gone, so nothing new goes there.
  ignore_health_on_host_removal: true
  connect_timeout: 1s
  load_assignment:
    cluster_name: server
    endpoints:
      - lb_endpoints:
          - endpoint:
              address:
                socket_address: {address: {{ include "qwen3-vl.fullname" . }}-server-headless, port_value: 8001}
  # Answers last from a second to minutes: the count of those that run is the load. Five draws, as two would let a quarter
  # of the requests pass an idle one of two servers; no FULL_SCAN, which offers a retry nothing but the dead server.
  load_balancing_policy:
    policies:
      - typed_extension_config:
          name: envoy.load_balancing_policies.least_request
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
            choice_count: 5
  # Never to servers that are known to be dead, however many they are.
  common_lb_config: {healthy_panic_threshold: {value: 0}}
  health_checks:
    - timeout: 2s
      interval: 3s
      interval_jitter: 1s
      no_traffic_interval: 3s
      unhealthy_threshold: 2
      healthy_threshold: 1
      grpc_health_check: {}
  # Broken connections only: an answer that says "full" is no sign of a broken server. A passed health check ends it.
  outlier_detection:
    split_external_local_origin_errors: true
    consecutive_local_origin_failure: 2
    enforcing_consecutive_local_origin_failure: 100
    enforcing_local_origin_success_rate: 0
    enforcing_consecutive_5xx: 0
    enforcing_consecutive_gateway_failure: 0
    enforcing_success_rate: 0
    base_ejection_time: 10s
    max_ejection_percent: 50
  circuit_breakers:
    thresholds:
      - max_connections: {{ $limits.maxConnections }}
        max_requests: {{ $limits.maxRequests }}
        max_pending_requests: {{ $limits.maxPendingRequests }}
        retry_budget: {budget_percent: {value: 25}, min_retry_concurrency: 20}
        track_remaining: true
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      # No pings of HTTP/2: Triton closes connections that send them. TCP's notice a node that has vanished.
      explicit_http_config: {http2_protocol_options: {}}
  upstream_connection_options:
    tcp_keepalive: {keepalive_time: 10, keepalive_interval: 5, keepalive_probes: 3}
{{- end -}}

{{/* What Prometheus and the probes read, and no more of the admin interface. */}}
{{- define "qwen3-vl.proxy.metrics" -}}
- name: metrics
  address: {socket_address: {address: 0.0.0.0, port_value: 9901}}
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: metrics
            route_config:
              virtual_hosts:
                - name: metrics
                  domains: ["*"]
                  routes:
                    {{- range list "/stats/prometheus" "/ready" }}
                    - match: {path: {{ . }}, headers: [{name: ":method", string_match: {exact: GET}}]}
                      route: {cluster: admin}
                    {{- end }}
                    # Where a ServiceMonitor looks at every component.
                    - match: {path: /metrics, headers: [{name: ":method", string_match: {exact: GET}}]}
                      route: {cluster: admin, prefix_rewrite: /stats/prometheus}
            http_filters:
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
{{- end -}}

{{/* preStop asks here: not ready from now on, each answer tells its connection to go elsewhere, and the reply comes when the
time is over. The image has no shell, and a hook can only GET; admin wants POST. No NetworkPolicy opens the port: kubelet needs
none. */}}
{{- define "qwen3-vl.proxy.drain" -}}
- name: drain
  address: {socket_address: {address: 0.0.0.0, port_value: 9903}}
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: drain
            stream_idle_timeout: 0s
            route_config:
              virtual_hosts:
                - name: drain
                  domains: ["*"]
                  routes:
                    - match: {path: /drain}
                      direct_response: {status: 200, body: {inline_string: drained}}
            http_filters:
              - name: envoy.filters.http.lua
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                  default_source_code:
                    inline_string: |
                      function envoy_on_request(request)
                        if request:headers():get(":path") == "/drain" then
                          request:httpCall("admin", {[":method"] = "POST", [":path"] = "/healthcheck/fail", [":authority"] = "admin"}, "", 1000)
                        end
                      end
              - name: envoy.filters.http.fault
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
                  delay:
                    fixed_delay: {{ include "qwen3-vl.proxy.drainSeconds" . }}s
                    percentage: {numerator: 100}
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
{{- end -}}

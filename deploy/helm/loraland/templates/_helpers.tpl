{{- define "loraland.name" -}}
{{- $name := ternary .Release.Name (printf "%s-loraland" .Release.Name) (contains "loraland" .Release.Name) }}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "loraland.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What tells the pods of one kind from others: a dict of `root` and `kind`. */}}
{{- define "loraland.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .kind }}
{{- end }}

{{- define "loraland.labels" -}}
{{ include "loraland.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* The environment of every process: secrets by reference, then settings; `more` are those of one kind. */}}
{{- define "loraland.env" -}}
{{- range list "SECRET_KEY" "DATABASE_URL" "REDIS_URL" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.root.Values.existingSecret }}, key: {{ . }}}}
{{- end }}
- {name: VAR_DIR, value: /var/lib/loraland}
- {name: HOME, value: /tmp}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: WORKER_NAME, value: $(POD_NAME)}
# Prometheus asks a pod by its address.
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: ALLOWED_HOSTS, value: "{{ join "," .root.Values.site.hosts }},$(POD_IP)"}
- {name: HTTPS, value: {{ ternary "1" "0" .root.Values.site.https | quote }}}
{{- if .root.Values.site.https }}
- {name: CSRF_TRUSTED_ORIGINS, value: {{ printf "https://%s" (join ",https://" .root.Values.site.hosts) | quote }}}
{{- end }}
{{- with .root.Values.site.trustedProxies }}
- {name: TRUSTED_PROXIES, value: {{ join "," . | quote }}}
{{- end }}
{{- with .root.Values.site.internalAddresses }}
- {name: INTERNAL_ADDRESSES, value: {{ printf "127.0.0.0/8,%s" (join "," .) | quote }}}
{{- end }}
{{- with .root.Values.stores.adapters }}
- {name: ADAPTER_STORE, value: {{ . | quote }}}
{{- end }}
{{- with .root.Values.stores.models }}
- {name: MODEL_STORE, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := merge (dict) (.more | default dict) .root.Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* What every container of ours has: a dict of `root` and `more`, settings of its kind. */}}
{{- define "loraland.container" -}}
image: {{ include "loraland.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  {{- include "loraland.env" . | nindent 2 }}
envFrom:
  # What opens the stores: keys of the Secret that are no settings
  - secretRef: {name: {{ .root.Values.existingSecret }}}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: var, mountPath: /var/lib/loraland}
{{- end }}

{{- define "loraland.security" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "loraland.claim" -}}
{{ .Values.storage.existingClaim | default (printf "%s-var" (include "loraland.name" .)) }}
{{- end }}

{{/* Not empty where adapters and base models both come from buckets: then pods share no files. A folder is shared. */}}
{{- define "loraland.apart" -}}
{{- $stores := list .Values.stores.adapters .Values.stores.models }}
{{- if not (or (has "" $stores) (hasPrefix "file:" (first $stores)) (hasPrefix "file:" (last $stores))) }}true{{ end }}
{{- end }}

{{/* What a pod keeps: on the claim of all, or for itself where it has all from stores. */}}
{{- define "loraland.volumes" -}}
{{- if include "loraland.apart" . }}{{ include "loraland.own" . }}{{ else -}}
- {name: tmp, emptyDir: {}}
- {name: var, persistentVolumeClaim: {claimName: {{ include "loraland.claim" . }}}}
{{- end }}
{{- end }}

{{- define "loraland.own" -}}
- {name: tmp, emptyDir: {}}
- {name: var, emptyDir: {sizeLimit: {{ .Values.storage.cacheSize }}}}
{{- end }}

{{/* Pods of one kind on different nodes, where that is possible. */}}
{{- define "loraland.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "loraland.selector" . | nindent 8 }}
{{- end }}

{{- define "loraland.annotations" -}}
{{- with .Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* How a base is called in names of workers: as `inference.bases.base_key` says. */}}
{{- define "loraland.key" -}}
{{ . | trim | base | trimSuffix ".gguf" | lower }}
{{- end }}

{{/* A look for a sign of life: a dict of `kind` and of what is `beside` the pod's name in that of its worker. */}}
{{- define "loraland.health" -}}
exec:
  {{- if has .kind (list "worker" "trainer") }}
  command: [sh, -c, 'python manage.py health {{ .kind }} --name "$WORKER_NAME{{ .beside }}"']
  {{- else }}
  command: [python, manage.py, health, {{ .kind }}]
  {{- end }}
{{- end }}

{{/* A question to the web process by a name that it answers to. */}}
{{- define "loraland.get" -}}
httpGet:
  path: {{ .path }}
  port: http
  httpHeaders:
    - {name: Host, value: {{ first .root.Values.site.hosts }}}
    - {name: X-Forwarded-Proto, value: {{ ternary "https" "http" .root.Values.site.https }}}
{{- end }}

{{/* Of nodes of Ray: without any of ours the operator would add some that need wget in the image. */}}
{{- define "loraland.rayProbes" -}}
{{- range $kind, $often := dict "readinessProbe" 10 "livenessProbe" 30 }}
{{ $kind }}:
  exec:
    command: [python, -c, 'from urllib.request import urlopen; urlopen("http://127.0.0.1:52365/api/local_raylet_healthz", timeout=5)']
  initialDelaySeconds: 10
  periodSeconds: {{ $often }}
  timeoutSeconds: 10
  failureThreshold: 12
{{- end }}
{{- end }}

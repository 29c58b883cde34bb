{{- define "ident.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* Kubernetes makes a label of a StatefulSet's name and the hash of its revision. A
     label has at most 63 characters. */}}
{{- define "ident.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "ident.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ident.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ident.selector" -}}
app.kubernetes.io/name: {{ include "ident.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "ident.doctor" -}}
{{ include "ident.name" . | trunc 52 }}-doctor
{{- end }}

{{- define "ident.labels" -}}
{{ include "ident.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels of an object, its annotations and, if it has one, its name. "of" holds the
     values for it. The labels and annotations of the chart come before those of values. */}}
{{- define "ident.metadata" -}}
{{- with .name -}}name: {{ . }}{{ "\n" }}{{- end }}
{{- $values := .root.Values }}
{{- $of := .of | default dict }}
{{- $labels := .labels | default (include "ident.labels" .root | fromYaml) -}}
labels:
  {{- toYaml (merge dict $labels ($of.labels | default dict) ($values.commonLabels | default dict)) | nindent 2 }}
{{- with merge dict (.annotations | default dict) ($of.annotations | default dict) ($values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The largest number of instances, or nothing if others than the chart decide. */}}
{{- define "ident.most" -}}
{{- with ternary .Values.replicas .Values.autoscaling.maxReplicas (eq .Values.autoscaling.by "none") }}{{ . }}{{ end }}
{{- end }}

{{- define "ident.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ident.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "ident.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "ident.secret" -}}
{{- .Values.existingSecret | default (printf "%s-settings" (include "ident.fullname" .)) }}
{{- end }}

{{- define "ident.scheme" -}}
{{- .Values.portScheme | default (ternary "HTTPS" "HTTP" (not (empty (.Values.settings.http | default dict).ssl_cert))) }}
{{- end }}

{{/* The settings file. toToml cannot be used: it writes 5432 as 5432.0. The JSON form of
     strings, numbers, booleans and lists of these is TOML too. */}}
{{- define "ident.settings" -}}
{{- $settings := mergeOverwrite (dict "amqp" (dict "insist" true) "cluster" (dict "queue_type" "quorum")) (deepCopy .Values.settings) }}
{{- include "ident.table" (dict "path" "" "table" $settings) }}
{{- end }}

{{- define "ident.table" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $name := ternary $key (printf "%s.%s" $path $key) (empty $path) }}

[{{ $name }}]
{{- include "ident.table" (dict "path" $name "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The part that all pods share. */}}
{{- define "ident.pod" -}}
serviceAccountName: {{ include "ident.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The volumes that "ident.container" mounts. */}}
{{- define "ident.volumes" -}}
{{- /* Without fsGroup, the files belong to root, and the instances run as another user. */}}
{{- $mode := ternary "0440" "0444" (not (empty (.Values.podSecurityContext | default dict).fsGroup)) -}}
volumes:
  - name: settings
    secret:
      secretName: {{ include "ident.secret" . }}
      defaultMode: {{ $mode }}
  {{- range .Values.files }}
  - name: file-{{ .name }}
    {{- if .secret }}
    secret:
      secretName: {{ .secret }}
      defaultMode: {{ $mode }}
    {{- else }}
    configMap:
      name: {{ .configMap }}
    {{- end }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The part that all containers share. */}}
{{- define "ident.container" -}}
image: {{ include "ident.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - name: GLOTPOD_IDENT_SETTINGS
    value: /etc/glotpod-ident/settings/settings.toml
  # These override the settings file and envFrom: other parts of the pod depend on them.
  - name: GLOTPOD_IDENT__CLUSTER__INSTANCE
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: GLOTPOD_IDENT__HTTP__LISTEN
    value: ":{{ .Values.port }}"
  - name: GLOTPOD_IDENT__HTTP__PPROF
    value: {{ .Values.pprof | quote }}
  - name: GLOTPOD_IDENT__SHUTDOWN__GRACE
    value: {{ .Values.drainSeconds }}s
  {{- with .Values.goMemoryLimit }}
  - name: GOMEMLIMIT
    value: {{ . }}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumeMounts:
  - name: settings
    mountPath: /etc/glotpod-ident/settings
    readOnly: true
  {{- range .Values.files }}
  - name: file-{{ .name }}
    mountPath: /etc/glotpod-ident/{{ .name }}
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end }}

{{/* Checks that values.schema.json cannot express. */}}
{{- define "ident.check" -}}
{{- if .Values.existingSecret }}
{{- if .Values.settings }}
{{- fail "settings and existingSecret exclude each other" }}
{{- end }}
{{- else }}
{{- $database := .Values.settings.database | default dict }}
{{- $key := or $database.encryption_key $database.encryption_key_file .Values.envFrom }}
{{- range .Values.env }}
{{- $key = or $key (has .name (list "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY" "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY_FILE")) }}
{{- end }}
{{- if not $key }}
{{- fail "settings.database.encryption_key is required (`glotpod-ident keygen` prints one), or encryption_key_file, or its variable in env or envFrom, or existingSecret" }}
{{- end }}
{{- end }}
{{- $partitions := (.Values.settings.cluster | default dict).partitions | default 64 }}
{{- $most := include "ident.most" . }}
{{- if and (not .Values.existingSecret) (gt (int $most) (int $partitions)) }}
{{- fail (printf "%d instances would share %d partitions: some would stand idle" (int $most) (int $partitions)) }}
{{- end }}
{{- if ne .Values.autoscaling.by "none" }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas is greater than autoscaling.maxReplicas" }}
{{- end }}
{{- end }}
{{- if and (eq .Values.autoscaling.by "queue") (not .Values.autoscaling.queue.urlSecret.name) }}
{{- fail "autoscaling.queue.urlSecret.name is required" }}
{{- end }}
{{- end }}

{{- define "flowpod.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "flowpod.fullname" -}}
{{- $name := include "flowpod.name" . }}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $whole .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* The service name: letters, digits and underscores, because it is part of table names. */}}
{{- define "flowpod.serviceName" -}}
{{- $name := include "flowpod.fullname" . | replace "-" "_" | replace "." "_" }}
{{- $name = regexMatch "^[a-z]" $name | ternary $name (printf "flow_%s" $name) }}
{{- default ($name | trunc 40) .Values.serviceName }}
{{- end }}

{{- define "flowpod.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flowpod.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "flowpod.labels" -}}
{{ include "flowpod.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels of the test pod, which the Service must not select. */}}
{{- define "flowpod.testLabels" -}}
app.kubernetes.io/name: {{ include "flowpod.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "flowpod.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "flowpod.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "flowpod.fullname" .) "default") }}
{{- end }}

{{- define "flowpod.tokenSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-token" (include "flowpod.fullname" .)) }}
{{- end }}

{{- define "flowpod.claim" -}}
{{- .Values.persistence.existingClaim | default (include "flowpod.fullname" .) }}
{{- end }}

{{- define "flowpod.port" -}}8080{{- end }}

{{/* Checks for combinations of values, which the schema cannot express. */}}
{{- define "flowpod.validate" -}}
{{- if eq .Values.history.type "sqlite" }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount: %d instances cannot share a history in SQLite, which supports one. Set history.type to mysql (or off)" (int .Values.replicaCount)) }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- fail "autoscaling.enabled: several instances cannot share a history in SQLite, which supports one. Set history.type to mysql (or off)" }}
{{- end }}
{{- end }}
{{- if and (eq .Values.history.type "mysql") (not .Values.history.mysql.existingSecret) }}
{{- fail "history.mysql.existingSecret: set it to the Secret that holds the URL of the database" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- fail "autoscaling.minReplicas is greater than autoscaling.maxReplicas" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPUUtilizationPercentage) (not .Values.autoscaling.targetRunsInProgress) }}
{{- fail "autoscaling: set targetCPUUtilizationPercentage or targetRunsInProgress; there is no metric to scale by" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: set it to the Gateway of the route" }}
{{- end }}
{{- if lt (int (include "flowpod.grace" .)) 1 }}
{{- fail (printf "terminationGracePeriodSeconds: %d leaves no time for runs; it must be greater than drainDelaySeconds + 15" (int .Values.terminationGracePeriodSeconds)) }}
{{- end }}
{{- end }}

{{- define "flowpod.grace" -}}
{{- sub (sub (int .Values.terminationGracePeriodSeconds) (int .Values.drainDelaySeconds)) 15 }}
{{- end }}

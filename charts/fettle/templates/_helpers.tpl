{{/* The beginning of every name: the release's, and the chart's where that does not say it already. */}}
{{- define "fettle.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What pods are selected by; fixed for the life of a release. Takes (dict "root" $ "component" "bridge"). */}}
{{- define "fettle.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "fettle.labels" -}}
{{ include "fettle.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* The namespace whose devices are served. */}}
{{- define "fettle.served" -}}
{{- default .Release.Namespace .Values.servedNamespace -}}
{{- end -}}

{{- define "fettle.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "fettle.credentialSecret" -}}
{{- default (printf "%s-credentials" (include "fettle.fullname" .)) .Values.bridge.credentialKey.existingSecret -}}
{{- end -}}

{{/* Environment that both programs share. */}}
{{- define "fettle.env" -}}
- name: FETTLE_NAMESPACE
  value: {{ include "fettle.served" . }}
- name: FETTLE_LEASE_DURATION
  value: {{ .Values.leaseDuration | quote }}
- name: FETTLE_RECONNECT_GRACE
  value: {{ .Values.reconnectGrace | quote }}
- name: FETTLE_LOG_FORMAT
  value: {{ .Values.logs.format }}
- name: FETTLE_LOG_FILTER
  value: {{ .Values.logs.filter | quote }}
{{- end -}}

{{/* What PodSecurity `restricted` asks of a container, and a read-only root besides. */}}
{{- define "fettle.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "fettle.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "fettle.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
{{- end -}}

{{/* "true" where devices are told the address of a Service that leads to one replica. */}}
{{- define "fettle.advertisesService" -}}
{{- if and .Values.bridge.podServices.enabled (not .Values.bridge.advertiseIPv4) -}}true{{- end -}}
{{- end -}}

{{- define "fettle.podServiceType" -}}
{{- $type := default .Values.bridge.service.type .Values.bridge.podServices.type -}}
{{- ternary "ClusterIP" $type (eq $type "NodePort") -}}
{{- end -}}

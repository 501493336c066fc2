{{- define "streamjob-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "streamjob-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "streamjob-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "streamjob-operator.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "streamjob-operator.selector" -}}
app.kubernetes.io/name: {{ include "streamjob-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "streamjob-operator.labels" -}}
{{ include "streamjob-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: streamjob
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "streamjob-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "streamjob-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* What the API server calls the operator. */}}
{{- define "streamjob-operator.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "streamjob-operator.serviceAccount" . }}
{{- end }}

{{- /* An image's reference. Call with a dict of `image` and `version`. */}}
{{- define "streamjob-operator.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .version .image.tag) }}
{{- end }}
{{- end }}

{{- define "streamjob-operator.webhookService" -}}
{{ include "streamjob-operator.fullname" . }}-webhook
{{- end }}

{{- define "streamjob-operator.webhookSecret" -}}
{{ include "streamjob-operator.fullname" . }}-webhook-cert
{{- end }}

{{- /* Cluster-scoped, so two releases must not share it. */}}
{{- define "streamjob-operator.webhookConfiguration" -}}
{{ .Release.Namespace }}-{{ include "streamjob-operator.fullname" . }}
{{- end }}

{{- define "streamjob-operator.clusterRole" -}}
{{ .Release.Namespace }}-{{ include "streamjob-operator.fullname" . }}
{{- end }}

{{- /* What every container of this chart may do at most: the restricted Pod Security level. */}}
{{- define "streamjob-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What the operator needs where its jobs are: all namespaces, or each of a list. */}}
{{- define "streamjob-operator.jobRules" -}}
- apiGroups: [streamjob.dev]
  resources: [streamjobs]
  verbs: [list, watch, patch]
- apiGroups: [streamjob.dev]
  resources: [streamjobs/status]
  verbs: [patch]
# Children block their owner's deletion; some clusters ask for this before they take such an owner reference.
- apiGroups: [streamjob.dev]
  resources: [streamjobs/finalizers]
  verbs: [update]
# Deleted where a member that cannot be changed has changed; its pods stay.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch, create, patch, delete]
# The garbage collector deletes them, when their job is gone.
- apiGroups: [""]
  resources: [services, configmaps, secrets, serviceaccounts]
  verbs: [list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [list, watch, create, patch]
# The users' own, of which a job names one: only these are read. Deleted are those that no pod of a job reads any more.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, delete]
# Deleted where a broken roll is stuck on one, or where it has outlived StatefulSet and job; never created.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
# Grown, and deleted where `deletionPolicy: Delete` says so; never created: that is the StatefulSet's part.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, patch, delete]
# Listed where a pod cannot be created: the reason stands in an Event of its StatefulSet.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end }}

"""What the operator may do, as the tests of the chart and those on a cluster expect it: this, and nothing more."""

from __future__ import annotations

Rights = dict[tuple[str, str], str]
"""The verbs, with blanks between them, by (API group, resource)."""

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")

WITH_JOBS: Rights = {
    ("streamjob.dev", "streamjobs"): "list watch patch",
    ("streamjob.dev", "streamjobs/status"): "patch",
    ("streamjob.dev", "streamjobs/finalizers"): "update",
    ("apps", "statefulsets"): "list watch create patch delete",
    ("", "services"): "list watch create patch",
    ("", "configmaps"): "get list watch create patch delete",
    ("", "secrets"): "list watch create patch",
    ("", "serviceaccounts"): "list watch create patch",
    ("policy", "poddisruptionbudgets"): "list watch create patch",
    ("networking.k8s.io", "networkpolicies"): "list watch create patch",
    ("monitoring.coreos.com", "podmonitors"): "list watch create patch",
    ("", "pods"): "list watch delete",
    ("", "persistentvolumeclaims"): "list watch patch delete",
    ("", "events"): "create list",
}
"""Where jobs are."""

OF_THE_CLUSTER: Rights = {
    ("storage.k8s.io", "storageclasses"): "list watch",
    ("node.k8s.io", "runtimeclasses"): "list watch",
}

OF_EVERY_ACCOUNT: Rights = {
    ("authorization.k8s.io", "selfsubjectaccessreviews"): "create",
    ("authorization.k8s.io", "selfsubjectrulesreviews"): "create",
    ("authentication.k8s.io", "selfsubjectreviews"): "create",
}
"""Every account may ask what it may do."""


def ordered(rights: Rights) -> Rights:
    """The same with the verbs in the order of VERBS."""
    return {at: " ".join(verb for verb in VERBS if verb in words.split()) for at, words in rights.items()}

"""How everything around a job is called: API, labels, annotations, children, places in the pod."""

from __future__ import annotations

GROUP = "streamjob.dev"
VERSION = "v1alpha1"
PLURAL = "streamjobs"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "StreamJob"

FIELD_MANAGER = "streamjob-operator"
FINALIZER = f"{GROUP}/cleanup"

RESTART = f"{GROUP}/restart"
"""Annotation of a job: another text rolls its pod."""
CHECKPOINT = f"{GROUP}/checkpoint"
"""Annotation of a job: another text asks for a checkpoint now."""
DIGEST = f"{GROUP}/digest"
"""Annotation of a child: the hash of what was applied, so that members that are no longer wanted are noticed."""
SHARDS = f"{GROUP}/shards"
"""Annotation of a volume claim: the number of shards of the state on it."""
KEY = f"{GROUP}/key"
"""Annotation of a volume claim: the key by which the rows of the state on it were spread."""
JOB_HASH = f"{GROUP}/job-hash"
"""Annotation of a pod: the hash of its normalised job."""
UDF_HASHES = f"{GROUP}/udf-hashes"
"""Annotation of a pod: the hash of each UDF's code, as JSON by name."""
TOKEN_SECRET = f"{GROUP}/control-secret"
"""Annotation of a pod: the name of the Secret with the control token."""

JOB_LABEL = f"{GROUP}/job"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED = f"{MANAGED_BY}={FIELD_MANAGER}"
"""The selector of everything that the operator made."""
REVISION = "controller-revision-hash"

CONTAINER = "engine"
PORT = 8080
USER = 65532
STATE_MOUNT = "/var/lib/streamjob"
STATE_DIR = f"{STATE_MOUNT}/state"
DATA_DIR = f"{STATE_MOUNT}/data"
JOB_DIR = "/etc/streamjob/job"
UDF_DIR = "/etc/streamjob/udfs"
CONTROL_DIR = "/etc/streamjob/control"
JOB_KEY = "job.json"
TOKEN_KEY = "token"  # noqa: S105 - the name of a key, not a token
CLAIM = "state"

MAX_NAME = 50
"""Longest name of a job on Kubernetes: the label of its pods' revision has 63 characters, eleven of them a suffix."""
SUFFIXES = ("-nodes", "-job", "-udfs", "-control")
"""What the names of children end in: no job's name may, or it would be that of another job's child."""


def labels(job: str) -> dict[str, str]:
    """The labels of every child of a job."""
    return {
        "app.kubernetes.io/name": "streamjob",
        "app.kubernetes.io/instance": job,
        MANAGED_BY: FIELD_MANAGER,
        JOB_LABEL: job,
    }


def selector(job: str) -> dict[str, str]:
    """What selects the pods of a job; a StatefulSet's selector can never be changed."""
    return {"app.kubernetes.io/name": "streamjob", JOB_LABEL: job}


def selector_text(job: str) -> str:
    """`selector` as text, for /scale."""
    return ",".join(f"{name}={value}" for name, value in selector(job).items())


def nodes_service(job: str) -> str:
    """The headless Service."""
    return f"{job}-nodes"


def job_config(job: str) -> str:
    """The ConfigMap of the normalised job."""
    return f"{job}-job"


def udf_config(job: str) -> str:
    """The ConfigMap of the UDFs' code."""
    return f"{job}-udfs"


def control_secret(job: str) -> str:
    """The Secret of the control token."""
    return f"{job}-control"


def pod(job: str, ordinal: int) -> str:
    """A pod of the StatefulSet."""
    return f"{job}-{ordinal}"


def claim(job: str, ordinal: int) -> str:
    """A pod's volume claim."""
    return f"{CLAIM}-{job}-{ordinal}"

"""How everything around a job is called: API, labels, annotations, children, places in the pod."""

from __future__ import annotations

import re

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
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - of the pod, whose clients are outside
"""Where an engine listens, but for clusters whose pods have IPv6 first."""
USER = 65532
STATE_MOUNT = "/var/lib/streamjob"
STATE_DIR = f"{STATE_MOUNT}/state"
DATA_DIR = f"{STATE_MOUNT}/data"
JOB_DIR = "/etc/streamjob/job"
UDF_DIR = "/etc/streamjob/udfs"
CONTROL_DIR = "/etc/streamjob/control"
JOB_KEY = "job.json"
TOKEN_KEY = "token"  # noqa: S105 - the name of a key, not a token
JOB_VOLUME = "job"
CLAIM = "state"

MAX_NAME = 50
"""Longest name of a job on Kubernetes: the label of its pods' revision has 63 characters, eleven of them a suffix."""
SUFFIXES = ("-nodes", "-job", "-udfs", "-control")
"""What the names of children end in, or once did: no job's name may, or it would be that of another job's child."""
CONTENT_HASH = 10
"""Hexadecimal digits of the hash of its content in a ConfigMap's name."""
_CONFIG = re.compile(rf"-(job|udfs)(-[0-9a-f]{{{CONTENT_HASH}}})?")


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


def job_config(job: str, content: str) -> str:
    """The ConfigMap of a normalised job; `content` is the hash of what is in it."""
    return f"{job}-job-{content[:CONTENT_HASH]}"


def udf_config(job: str, content: str) -> str:
    """The ConfigMap of the UDFs' code; `content` is the hash of what is in it."""
    return f"{job}-udfs-{content[:CONTENT_HASH]}"


def is_config(job: str, name: str) -> bool:
    """Whether the operator calls ConfigMaps of the job so, or did before their names told their content."""
    return name.startswith(job) and _CONFIG.fullmatch(name, len(job)) is not None


def control_secret(job: str) -> str:
    """The Secret of the control token."""
    return f"{job}-control"


def pod(job: str, ordinal: int) -> str:
    """A pod of the StatefulSet."""
    return f"{job}-{ordinal}"


def claim(job: str, ordinal: int) -> str:
    """A pod's volume claim."""
    return f"{CLAIM}-{job}-{ordinal}"

"""What the pod reads: the normalised job, the code of the UDFs, the control token.

Job and code never change under a name, which tells their content: a pod reads what its template was made for, whenever
it starts.
"""

from __future__ import annotations

import base64

from streamjob_operator import names
from streamjob_operator.builders.base import Inputs, Manifest, child
from streamjob_operator.diff import digest


def job_config(inputs: Inputs) -> Manifest:
    """The ConfigMap of the normalised job."""
    data = {names.JOB_KEY: inputs.valid.config}
    return child(inputs, "v1", "ConfigMap", names.job_config(inputs.name, digest(data)), data=data, immutable=True)


def udf_config(inputs: Inputs) -> Manifest:
    """The ConfigMap with the text of each UDF's module."""
    data = {f"{name}.py": text for name, text in inputs.valid.udfs.items()}
    return child(inputs, "v1", "ConfigMap", names.udf_config(inputs.name, digest(data)), data=data, immutable=True)


def secret(inputs: Inputs, token: str) -> Manifest:
    """The Secret of the control token, which operator and pod share."""
    data = {names.TOKEN_KEY: base64.b64encode(token.encode()).decode()}
    return child(inputs, "v1", "Secret", names.control_secret(inputs.name), type="Opaque", data=data)

"""A way to a job's pod from this machine: `kubectl port-forward`, as long as a `with` block lasts."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from streamjob_operator.plugin.cluster import Cluster, ClusterError

PORT = 8080
END_S = 5.0
"""How long kubectl gets to end before it is killed."""
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


@contextmanager
def forwarded(cluster: Cluster, pod: str, local_port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL under which the pod's engine answers here, and the process that forwards; `local_port` 0: a free one."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ClusterError("kubectl is not in the PATH, and it is what forwards ports")
    command = [kubectl, "--namespace", cluster.namespace]
    command += ["--kubeconfig", cluster.kubeconfig] if cluster.kubeconfig else []
    command += ["--context", cluster.context] if cluster.context else []
    command += ["port-forward", "--address", "127.0.0.1", f"pod/{pod}", f"{local_port or ''}:{PORT}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - kubectl, and no shell
    try:
        assert process.stdout is not None
        # kubectl writes this line when it listens; the end of its output means that it has failed, and said why.
        match = _FORWARDING.search(process.stdout.readline())
        if match is None:
            raise ClusterError(f"there is no way to the pod {pod}")
        # It says something of every connection, and would wait for a reader.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{match[1]}", process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

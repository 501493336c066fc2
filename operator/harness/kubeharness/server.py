"""A real kube-apiserver with its etcd, on loopback, without any node: what a test needs of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "STREAMJOB_KUBE_BIN"
"""The folder with kube-apiserver and etcd; without it they are looked for on PATH."""
TOKEN = "loopback-admin"
OPERATOR = "operator"
OPERATOR_TOKEN = "loopback-operator"
"""A user of its own for an operator whose requests are to be told from others; it has all rights, too."""
LIMITED = "limited"
LIMITED_TOKEN = "loopback-limited"
"""A user that has the rights alone that a test gives it."""
CONTROLLERS = (
    "statefulset-controller",
    "garbage-collector-controller",
    "persistentvolumeclaim-protection-controller",
)
"""Of the controller manager: what makes pods and claims, and what deletes them. Nothing binds or runs them."""
START_LIMIT_S = 180.0
_POLL_S = 0.1


def program(name: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(name, path=os.environ.get(VARIABLE)) or shutil.which(name)


def missing() -> str | None:
    """Why there is no API server here, as a sentence."""
    absent = [
        name for name in ("kube-apiserver", "kube-controller-manager", "etcd", "openssl") if program(name) is None
    ]
    if not absent:
        return None
    return f"{' and '.join(absent)} not found: set {VARIABLE} to the folder that has them"


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _read(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}


@dataclass
class Server:
    """A running API server: its URL, a kubeconfig for it and its processes."""

    url: str
    kubeconfig: Path
    folder: Path
    commands: list[list[str]]
    processes: list[subprocess.Popen[bytes]]

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, Any]:
        """One request with all rights; (status, JSON)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        request.add_header("Content-Type", content)
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                return answer.status, _read(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _read(error.read())

    def stop(self) -> None:
        """Ends the processes, the API server first."""
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self) -> None:
        """Starts them, and waits until the API server is ready."""
        self.processes = [self._spawn(number) for number in (0, 1)]
        self._wait()
        self.processes.append(self._spawn(2))

    def restart_api(self, meanwhile: Callable[[], None]) -> None:
        """Kills the API server as a crash does, and starts it again after `meanwhile`."""
        self.processes[1].kill()
        self.processes[1].wait()
        meanwhile()
        self.processes[1] = self._spawn(1)
        self._wait()

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{number}.log").open("ab")
        return subprocess.Popen(self.commands[number], stdout=log, stderr=log, cwd=self.folder)

    def _wait(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit:
            if any(process.poll() is not None for process in self.processes[:2]):
                break
            with contextlib.suppress(OSError):
                if self.call("GET", "/readyz")[0] == 200:
                    return
            time.sleep(_POLL_S)  # its port is all that a starting server shows
        tail = (self.folder / "1.log").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"the API server has not started: {tail}")


def prepare(folder: Path, api_flags: Sequence[str] = (), manager_flags: Sequence[str] = ()) -> Server:
    """A server whose files lie in `folder`; not started."""
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    key, tokens = folder / "sa.key", folder / "tokens.csv"
    subprocess.run([str(program("openssl")), "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    users = ((TOKEN, "admin"), (OPERATOR_TOKEN, OPERATOR))
    lines = [f'{token},{user},{user},"system:masters"\n' for token, user in users]
    tokens.write_text("".join([*lines, f"{LIMITED_TOKEN},{LIMITED},{LIMITED}\n"]))
    client, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    etcd = [str(program("etcd")), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level", "error"]
    etcd += ["--listen-client-urls", client, "--advertise-client-urls", client]
    etcd += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    api = [str(program("kube-apiserver")), "--etcd-servers", client, "--secure-port", str(port)]
    api += ["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--cert-dir", str(folder / "certs")]
    api += ["--service-cluster-ip-range", "10.0.0.0/16", "--authorization-mode", "RBAC"]
    api += ["--service-account-issuer", "https://loopback", "--service-account-key-file", str(key)]
    api += ["--service-account-signing-key-file", str(key), "--token-auth-file", str(tokens)]
    api += ["--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none"]
    url = f"https://127.0.0.1:{port}"
    config = kubeconfig(folder, url, TOKEN)
    manager = [str(program("kube-controller-manager")), "--kubeconfig", str(config), "--leader-elect=false"]
    manager += ["--controllers", ",".join(CONTROLLERS), "--secure-port", "0", "--bind-address", "127.0.0.1"]
    return Server(url, config, folder, [etcd, [*api, *api_flags], [*manager, *manager_flags]], [])


def kubeconfig(folder: Path, url: str, token: str, name: str = "kubeconfig") -> Path:
    """A kubeconfig for a token."""
    path = folder / name
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "loopback",
        "contexts": [{"name": "loopback", "context": {"cluster": "loopback", "user": "loopback"}}],
        "clusters": [{"name": "loopback", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "loopback", "user": {"token": token}}],
    }
    path.write_text(json.dumps(config))
    return path


@contextlib.contextmanager
def running(folder: Path, api_flags: Sequence[str] = (), manager_flags: Sequence[str] = ()) -> Iterator[Server]:
    """A running server."""
    server = prepare(folder, api_flags, manager_flags)
    server.start()
    try:
        yield server
    finally:
        server.stop()

"""A line to the API server that can be cut, and a certificate for a webhook."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kubeharness.server import Server, program

_CHUNK = 1 << 16


@dataclass
class Line:
    """A relay on loopback. Once cut it still takes connections and lets nothing through, as a lost network does."""

    url: str
    sockets: list[socket.socket] = field(default_factory=list)
    _cut: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        self._cut.set()

    def drop(self) -> None:
        """Ends the connections that there are, as a proxy that starts anew does."""
        while self.sockets:
            one = self.sockets.pop()
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def relay(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if not self._cut.is_set():
                    target.sendall(chunk)


@contextlib.contextmanager
def cut_line(server: Server) -> Iterator[Line]:
    """A line to a server's port."""
    port = urlsplit(server.url).port
    assert port is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = Line(f"https://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near = listener.accept()[0]
                    far = socket.create_connection(("127.0.0.1", port))
                    line.sockets.extend((near, far))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=line.relay, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield line
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            line.drop()


def make_certificate(folder: Path) -> str:
    """Writes tls.crt and tls.key for 127.0.0.1 into a folder; gives the bundle that trusts them."""
    key, certificate = folder / "tls.key.new", folder / "tls.crt"
    command = [str(program("openssl")), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=w"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    key.rename(folder / "tls.key")  # the last, so that both are there once it is
    return base64.b64encode(certificate.read_bytes()).decode()


def listens(port: int) -> bool:
    """Whether something takes connections on a port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False

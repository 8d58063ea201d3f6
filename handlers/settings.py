"""The settings of a worker: one frozen object, read once at its start.

A value comes from the environment (`CELLSTATE_` + the name in capitals), else from the `cellstate` section of the archive's YAML,
else from the default here. An unknown name or an unreadable value refuses to start. Documented in docs/settings.md; a test compares.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from handlers.errors import ConfigurationError

PREFIX = "CELLSTATE_"
# Kubernetes sets these in every container for Services called cellstate or cellstate-…:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
KUBERNETES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
SECRET = frozenset({"state_key", "host_key_sha256"})
AUTO = "auto"  # `rewarm_steps`: as many as the model remembers, where they are no larger than its state
CHOICES = {
    "backend": ("onnxruntime", "torchscript"),
    "device": ("auto", "cpu", "cuda"),
    "log_requests": ("none", "errors", "all"),
    "log_format": ("text", "json"),
}
MAX_TTL = 1e9  # seconds; the time at which a session expires must be a date
ZERO_ALLOWED = frozenset(
    {
        "store_replicas",
        "keep_versions",
        "rewarm_steps",
        "max_imputed",
        "max_sessions",
        "max_sessions_per_tenant",
        "max_stored_bytes",
        "metrics_interval",
    }
)


def default_store() -> str:
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return f"lmdb://{base}/cellstate/sessions"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one worker. Times are in seconds, sizes in bytes."""

    backend: str = "onnxruntime"  # or "torchscript"
    device: str = "auto"  # "auto": a GPU when the backend has one, else the CPU; or "cpu", "cuda"
    threads: int = 1  # processor threads of one model run
    store: str = ""  # "memory://", "lmdb:///folder", "valkey://host:port/db"; empty: lmdb below the user's state folder
    store_bytes: int = 64 << 30  # largest size of the embedded store; address space, not memory
    store_sync: bool = True  # flush each commit to the disk: what is acknowledged survives a power cut
    store_timeout: float = 2.0  # for connecting to Valkey, and for each of its answers
    store_replicas: int = 0  # Valkey replicas that must have a commit before it is acknowledged
    session_ttl: float = 86_400.0  # idle time after which a session expires
    tombstone_ttl: float = 3_600.0  # how long a closed or expired session still answers 410
    keep_versions: int = 0  # earlier states that a session keeps to be rewound to
    rewarm_steps: int | str = AUTO  # recent inputs that a session keeps, to rebuild its state when the model has changed
    max_sessions: int = 0  # in the store, above which no session is created; 0: no quota
    max_sessions_per_tenant: int = 0  # of one model, but for the default tenant; 0: no quota
    max_stored_bytes: int = 0  # the same for what they take; 0: seven eighths of what the store has room for
    clock_confirmation: float = 3_600.0  # for which a jump of the clock must last until expiry follows it
    sweep_interval: float = 1.0  # between two slices of the sweep
    sweep_slice: int = 1_000  # entries looked at in one slice
    commit_attempts: int = 8  # tries at a contended session before 429
    max_steps: int = 10_000  # T of one request
    max_instances: int = 4_096  # request objects in one body
    max_horizon: int = 1_000
    max_paths: int = 1_000  # along which one forecast of a model of distributions is sampled
    max_imputed: int = 24  # steps in a row whose missing measurements a stream's own predictions stand in for
    max_body: int = 4_000_000
    max_reply: int = 6_000_000  # below TorchServe's own limit, which ends the worker
    max_batch: int = 256  # rows in one model run
    long_steps: int = 200  # time steps, a horizon along each path included, from which on a request is long; many long ones take turns
    free_long_steps: int = 6_400  # of all long requests that one batch runs without taking its turn
    max_long_steps: int = 100_000  # of all long requests that one batch runs
    batch_seconds: float = 10.0  # after which the rest of a batch is answered 429; below TorchServe's responseTimeout
    state_key: str = ""  # signs client-held state when set
    key_file: str = ""  # the API keys: handlers/keys.py; empty: every request is served
    host_key_sha256: str = ""  # of the key with which whoever started the server asks it, in hexadecimal digits
    gate_file: str = ""  # of the drain lock, shared with whoever stops the server: handlers/engine/drain.py
    fast_messages: bool = True  # of TorchServe and its worker, where its release is the one known
    log_requests: str = "none"  # which requests are logged, one line each: "none", "errors" or "all"
    log_format: str = "text"  # of the worker's log; or "json"
    metrics_interval: float = 5.0  # between two reports of what was counted; 0: none

    @classmethod
    def read(cls, section: Mapping[str, Any] | None, environment: Mapping[str, str]) -> "Settings":
        """Merge the archive's section and the environment. Raises ConfigurationError, which names the setting and its place."""
        known = {f.name for f in fields(cls)}
        if section is not None and not isinstance(section, Mapping):
            raise ConfigurationError(f"cellstate: expected settings by name, got {section!r}")
        values: dict[str, tuple[Any, str]] = {name: (value, f"cellstate.{name}") for name, value in (section or {}).items()}
        for variable, text in environment.items():
            name = variable.removeprefix(PREFIX)
            if name != variable and (name.lower() in known or not KUBERNETES.fullmatch(name)):
                values[name.lower()] = (text, variable)
        unknown = [where for name, (_, where) in values.items() if name not in known]
        if unknown:
            raise ConfigurationError(f"unknown setting {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
        numbers = {"rewarm_steps": 0} if values.get("rewarm_steps", (AUTO,))[0] != AUTO else {}  # it is a number or "auto"
        parsed = {f.name: _parse(values[f.name], numbers.get(f.name, f.default)) for f in fields(cls) if f.name in values}
        settings = cls(**parsed)
        settings._check()
        return settings

    def _check(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and not math.isfinite(value):
                raise ConfigurationError(f"{name}: must be a finite number, got {value}")
            if number and (value < 0 or (value == 0 and name not in ZERO_ALLOWED)):
                raise ConfigurationError(f"{name}: must be {'at least' if name in ZERO_ALLOWED else 'greater than'} 0, got {value}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("session_ttl", "tombstone_ttl"):
            if getattr(self, name) > MAX_TTL:
                raise ConfigurationError(f"{name}: at most {MAX_TTL:g} seconds, got {getattr(self, name):g}")
        if self.keep_versions > 255:
            raise ConfigurationError(f"keep_versions: at most 255, got {self.keep_versions}")
        if len(self.state_key.encode()) > 64:
            raise ConfigurationError("state_key: at most 64 bytes")

    @property
    def store_url(self) -> str:
        return self.store or default_store()

    @property
    def clock_reference(self) -> Path | None:
        """The file beside the embedded store that keeps which time was believed: handlers/clock.py. Other stores have none."""
        scheme, _, folder = self.store_url.partition("://")
        return Path(folder) / "clock.json" if scheme == "lmdb" and folder else None

    def effective(self) -> dict[str, Any]:
        """Return every setting with its value, secrets masked, for the log line of the start."""
        shown = asdict(self) | {"store": masked(self.store_url)}
        return {name: ("***" if name in SECRET and value else value) for name, value in shown.items()}


def masked(url: str) -> str:
    """Return a store's URL with its passwords masked."""
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url))


def _parse(value_and_source: tuple[Any, str], default: Any) -> Any:
    """Convert a value from YAML or the environment to the type of the default. Raises ConfigurationError."""
    value, where = value_and_source
    if isinstance(default, bool):
        text = str(value).lower()
        if text not in ("true", "false", "1", "0"):
            raise ConfigurationError(f"{where}: expected true or false, got {value!r}")
        return text in ("true", "1")
    try:
        parsed = type(default)(value)
    except (TypeError, ValueError) as e:
        raise ConfigurationError(f"{where}: expected {type(default).__name__}, got {value!r}") from e
    if not isinstance(value, str) and (type(value) is bool or parsed != value):  # YAML: a part of a step, a list, nothing at all
        raise ConfigurationError(f"{where}: expected {type(default).__name__}, got {value!r}")
    return parsed

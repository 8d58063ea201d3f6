"""The TorchServe adapter: the only file that knows the host. One class, rows and context on one side, the service on the other.

Facts about the host that shape it: an exception out of `handle` fails the whole batch, so none leaves it; a per-request status needs an own
body and a phrase; the handler's file must define exactly one class; bytes go out as they are; the worker's standard output is the host's
protocol for logs and metrics.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.clock import ClockGuard
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend, open_store
from handlers.engine.service import Service
from handlers.errors import ConfigurationError
from handlers.keys import KeyRing
from handlers.metrics import Telemetry
from handlers.protocols.base import HttpRequest, HttpResponse
from handlers.protocols.frontend import Frontend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.reopening import ReopeningStore
from handlers.torchserve import socket_reader
from handlers.torchserve.metrics_reporter import MetricsReporter

log = logging.getLogger("cellstate")


class LstmHandler:
    """What TorchServe calls: `initialize` once in each worker, then `handle` for every batch."""

    def __init__(self) -> None:
        self._frontend: Frontend | None = None

    def initialize(self, context: Any) -> None:
        """Load the model; open the store, or go on without it. Raises ConfigurationError: TorchServe reports it and tries a new worker."""
        folder = Path(context.system_properties["model_dir"])
        try:
            self._frontend = self._start(folder, context.model_yaml_config or {})
        except ConfigurationError as e:
            log.error("refused_to_start %s", e.message)
            raise

    def _start(self, folder: Path, config: Mapping[str, Any]) -> Frontend:
        settings = Settings.read(config.get("cellstate"), os.environ)
        _configure_logging(settings)
        signature = Signature.load(folder / "signature.json")
        backend = open_backend(folder, signature, settings)
        telemetry = Telemetry((signature.name, signature.version))
        store = ReopeningStore(lambda: open_store(settings), lambda available: telemetry.set("store_available", available))
        clock = ClockGuard(settings.clock_confirmation, lambda: telemetry.count("clock_jumps_total"))
        context = ServiceContext(backend, signature, store, settings, telemetry)
        socket_reader.install()
        if settings.metrics_interval:
            MetricsReporter(telemetry, settings.metrics_interval).start()
        log.warning("started model=%s device=%s settings=%s", signature.label, backend.device, json.dumps(settings.effective()))
        return Frontend(Service(context, clock), _key_ring(settings))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch; row i of the result answers row i of `data`."""
        assert self._frontend is not None  # the host calls `initialize` first
        responses = self._frontend.handle_batch([HttpRequest(_body(row), _headers(context, i)) for i, row in enumerate(data)])
        for i, response in enumerate(responses):
            _set_head(context, i, response)
        return [response.body for response in responses]


def _key_ring(settings: Settings) -> KeyRing | None:
    """Return the keys that requests need; None where no key file is configured. Raises ConfigurationError."""
    if not settings.key_file:
        return None
    try:
        return KeyRing(Path(settings.key_file), bytes.fromhex(settings.host_key_sha256))
    except ValueError as e:
        raise ConfigurationError(f"host_key_sha256: {e}") from e


def _body(row: Mapping[str, Any]) -> bytes:
    """A request's body as bytes, whichever way the host passes it on: raw, decoded, or as the one field of a form."""
    value = row.get("body", row.get("data", b""))
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def _headers(context: Any, i: int) -> dict[str, str]:
    return {name.lower(): value for name, value in context.get_all_request_header(i).items()}


def _set_head(context: Any, i: int, response: HttpResponse) -> None:
    context.set_response_content_type(i, response.content_type)
    for name, value in response.headers.items():
        context.set_response_header(i, name, value)
    if response.status != 200:
        context.set_response_status(response.status, response.phrase, i)


def _configure_logging(settings: Settings) -> None:
    """Our lines always; the worker's own (`Backend received inference…`, one a request) only from WARNING up: the host parses each."""
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO if settings.log_requests else logging.WARNING)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("cellstate %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False

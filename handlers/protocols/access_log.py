"""One log line for each HTTP request, refused ones included: names and numbers, no payloads."""

import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import orjson

from handlers.engine.task import Task
from handlers.keys import Caller
from handlers.protocols.base import HttpRequest, HttpResponse

log = logging.getLogger("cellstate.access")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # https://www.w3.org/TR/trace-context/
REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class AccessLog:
    """Writes which requests the setting `log_requests` asks for: `none`, `errors` or `all`. `model` is its name and version."""

    def __init__(self, level: str, model: str) -> None:
        self._all, self._is_on, self._model = level == "all", level != "none", model

    def write(
        self,
        requests: Sequence[HttpRequest],
        callers: Sequence[Caller],
        groups: Sequence[Sequence[Task]],
        responses: Sequence[HttpResponse],
        began: float,
    ) -> None:
        """Write the lines of one batch. `began` is when it arrived at the worker, in seconds of `time.monotonic`."""
        if not self._is_on:
            return
        seconds = round(time.monotonic() - began, 6)
        for request, caller, tasks, response in zip(requests, callers, groups, responses, strict=True):
            errors = sum(task.error is not None for task in tasks)
            if self._all or errors or response.status >= 400:
                fields = self._identity(request, caller) | _summary(tasks, errors)
                fields |= {"status": response.status, "seconds": seconds, "batch": len(requests)}
                log.info("request %s", orjson.dumps(fields).decode(), extra={"fields": fields})

    def _identity(self, request: HttpRequest, caller: Caller) -> dict[str, Any]:
        return {
            "request_id": _matching(REQUEST_ID, request.id),
            "traceparent": _matching(TRACEPARENT, request.headers.get("traceparent", "")),
            "model": self._model,
            "key": caller.name or None,
            "tenant": caller.tenant or None,
        }


def _summary(tasks: Sequence[Task], errors: int) -> dict[str, Any]:
    """Return what was asked and what became of it; of many request objects, what they have in common, or None."""
    codes = {task.error.code if task.error else "ok" for task in tasks}
    only = tasks[0] if len(tasks) == 1 else None  # its session's id has passed the codec's pattern
    session = only.request.session if only else None
    return {
        "session": only.id if only and session else None,
        "action": session.action if session else None,
        "steps": sum(task.request.steps for task in tasks),
        "rows": len(tasks),
        "errors": errors,
        "code": codes.pop() if len(codes) == 1 else None,
    }


def _matching(pattern: re.Pattern[str], text: str) -> str | None:
    """Return text of a client that has the expected form, and None for any other."""
    return text if pattern.fullmatch(text) else None

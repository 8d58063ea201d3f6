"""An ASGI server over the core that forms batches by itself: while one batch runs, the requests that arrive become the next one.

Nothing waits for a batch to fill. Beside TorchServe over the same archive it shows what the host costs.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.asgi import read_body
from handlers.protocols.base import HttpRequest, HttpResponse
from handlers.protocols.frontend import Frontend
from handlers.torchserve import worker

MAX_BATCH = 256  # bodies


class Batcher:
    """Runs one batch at a time on one thread: the core is called by one thread only."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend, self._thread = frontend, ThreadPoolExecutor(1)
        self._waiting: list[tuple[HttpRequest, asyncio.Future[HttpResponse]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer a request as part of the next batch."""
        answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            responses = await loop.run_in_executor(self._thread, self._frontend.handle_batch, [request for request, _ in batch])
            for (_, answer), response in zip(batch, responses, strict=True):
                if not answer.done():  # a client that went away cancelled it
                    answer.set_result(response)
        self._runner = None


def application() -> Any:
    """For `uvicorn --factory`; `MODEL` names the folder of an unpacked archive."""
    batcher = Batcher(worker.start(Path(os.environ["MODEL"]), {"cellstate": {"metrics_interval": 0}}, os.environ))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        response = await batcher.answer(HttpRequest(body, headers, scope["path"]))
        content_type = (b"content-type", response.content_type.encode())
        more_headers = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": [content_type, *more_headers]})
        await send({"type": "http.response.body", "body": response.body})

    return app

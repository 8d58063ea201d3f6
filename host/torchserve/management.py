"""Ask a running TorchServe: its models and workers, and whether it answers predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from host import unix_socket
from host.archives import Archive

HEALTH_TIMEOUT = 5.0  # seconds in which a request must be answered
SCALE_TIMEOUT = 60.0  # seconds in which TorchServe must have ended or started the workers of a model
MANAGEMENT_TIMEOUT = 10.0
NO_ANSWER = "no answer"
DEAD = "no worker is running"


def failure(url: str, model: str, request: Mapping[str, Any], headers: Mapping[str, str], timeout: float = HEALTH_TIMEOUT) -> str | None:
    """Return why the server at `url` does not answer a request to `model` with 200; None when it does."""
    try:
        response = httpx.post(f"{url}/predictions/{model}", json=dict(request), headers=headers, timeout=timeout)
    except httpx.HTTPError:
        return NO_ANSWER
    return None if response.status_code == 200 else _code(response)


def _code(response: httpx.Response) -> str:
    """Return the code of one of our errors, else the status of an error of TorchServe."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


class Management:
    """The management API of a TorchServe, at a Unix socket. `headers` hold the key with which the server is asked for predictions."""

    def __init__(self, socket: Path, headers: Mapping[str, str]) -> None:
        self._socket, self._headers = socket, headers

    def request(self, method: str, path: str, timeout: float = MANAGEMENT_TIMEOUT, **parameters: str | int) -> httpx.Response:
        """Send one request. Raises httpx.HTTPError when TorchServe does not answer."""
        with unix_socket.client(self._socket, timeout) as client:
            return client.request(method, path, params=parameters)

    def describe(self, model: str) -> dict[str, Any]:
        """Return TorchServe's description of a model: workers with their process ids, and the state of its queue."""
        description: dict[str, Any] = self.request("GET", f"/models/{model}").json()[0]
        return description

    def is_ready(self, url: str, archive: Archive) -> bool:
        """Return whether every worker of the model is READY and the model answers a prediction: `/ping` of TorchServe says neither."""
        try:
            workers = self.describe(archive.name)["workers"]
            if not all(worker["status"] == "READY" for worker in workers):
                return False
            return failure(url, archive.name, archive.example(), self._headers) is None
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            return False

    def has_ready_worker(self, model: str) -> bool:
        """Return whether a worker of the model is READY. Raises httpx.HTTPError when TorchServe does not say."""
        return any(worker["status"] == "READY" for worker in self.describe(model)["workers"])

    def restart_workers(self, model: str) -> None:
        """End the workers of a model and start as many. Raises httpx.HTTPError.

        TorchServe starts a worker that dies again by itself, at growing intervals, and no more after five minutes.
        """
        workers = max(1, int(self.describe(model)["minWorkers"]))
        for count in (0, workers):
            self.scale(model, count)

    def scale(self, model: str, workers: int) -> None:
        """Start or end workers of a model until there are `workers`. Raises httpx.HTTPError."""
        path = f"/models/{model}"
        self.request("PUT", path, SCALE_TIMEOUT, min_worker=workers, max_worker=workers, synchronous="true").raise_for_status()

    def queue_is_empty(self, model: str) -> bool:
        """Return whether no request of the model waits in TorchServe's queue; False when TorchServe does not say."""
        try:
            return not self.describe(model)["jobQueueStatus"]["pendingRequests"]
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            return False

"""Ask a running TorchServe: its models and workers, and whether it answers predictions."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from host import unix_socket
from host.archives import Archive
from host.ports import HostError

HEALTH_TIMEOUT = 5.0  # seconds in which a request must be answered
SCALE_TIMEOUT = 60.0  # seconds in which TorchServe must have ended or started the workers of a model
REGISTER_TIMEOUT = 180.0  # the same for a model that is registered; its startupTimeout is 120 s as shipped
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


def ask(url: str, model: str, request: Mapping[str, Any], headers: Mapping[str, str], timeout: float = HEALTH_TIMEOUT) -> dict[str, Any]:
    """Return the answer of the server at `url` to a request to `model`. Raises HostError when there is none."""
    with _understood(f"answer a request to {model}"):
        response = httpx.post(f"{url}/predictions/{model}", json=dict(request), headers=headers, timeout=timeout)
        return dict(response.raise_for_status().json())


def _code(response: httpx.Response) -> str:
    """Return the code of one of our errors, else the status of an error of TorchServe."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


class Management:
    """The management API of a TorchServe, at a Unix socket. `headers` hold the key with which the server is asked for predictions.

    A `model` is a name, for the default version, or `name/version`.
    """

    def __init__(self, socket: Path, headers: Mapping[str, str]) -> None:
        self._socket, self._headers = socket, headers

    def describe(self, model: str) -> dict[str, Any]:
        """Return TorchServe's description of a model: workers with their process ids, and the state of its queue. Raises HostError."""
        with _understood(f"describe {model}"), unix_socket.client(self._socket, MANAGEMENT_TIMEOUT) as client:
            return dict(client.get(f"/models/{model}").json()[0])

    def is_ready(self, url: str, archive: Archive) -> bool:
        """Return whether every worker of the model is READY and the model answers a prediction: `/ping` of TorchServe says neither."""
        try:
            if not all(status == "READY" for status in self._statuses(archive.address)):
                return False
            return failure(url, archive.address, archive.example(), self._headers) is None
        except HostError:
            return False

    def has_ready_worker(self, model: str) -> bool:
        """Return whether a worker of the model is READY. Raises HostError when TorchServe does not say."""
        return "READY" in self._statuses(model)

    def _statuses(self, model: str) -> list[str]:
        """Return the status of each worker of a model. Raises HostError."""
        description = self.describe(model)
        with _understood(f"describe {model}"):
            return [str(worker["status"]) for worker in description["workers"]]

    def restart_workers(self, model: str) -> None:
        """End the workers of a model and start as many. Raises HostError.

        TorchServe starts a worker that dies again by itself, at growing intervals, and no more after five minutes.
        """
        description = self.describe(model)
        with _understood(f"restart the workers of {model}"):
            workers = max(1, int(description["minWorkers"]))
        for count in (0, workers):
            self.scale(model, count)

    def scale(self, model: str, workers: int) -> None:
        """Start or end workers of a model until there are `workers`. Raises HostError."""
        with _understood(f"restart the workers of {model}"):
            self._put(f"/models/{model}", {"min_worker": workers, "max_worker": workers, "synchronous": "true"})

    def versions(self) -> list[str]:
        """Return `name/version` of everything that is registered, ready or not. Raises HostError."""
        with _understood("list its models"), unix_socket.client(self._socket, MANAGEMENT_TIMEOUT) as client:
            described = [client.get(f"/models/{name}/all").raise_for_status().json() for name in _names(client)]
            return [f"{one['modelName']}/{one['modelVersion']}" for versions in described for one in versions]

    def default_version(self, model: str) -> str:
        """Return the version that answers requests which name none. Raises HostError."""
        description = self.describe(model)
        with _understood(f"describe {model}"):
            return str(description["modelVersion"])

    def register(self, archive: Archive, workers: int) -> None:
        """Load an archive of TorchServe's model store and start its workers. Raises HostError with TorchServe's reason when they fail."""
        parameters: dict[str, str | int] = {
            "url": archive.path.name,
            "model_name": archive.name,
            "initial_workers": workers,
            "synchronous": "true",
        }
        with _understood(f"register {archive.address}"), unix_socket.client(self._socket, REGISTER_TIMEOUT) as client:
            response = client.post("/models", params=parameters)
            if response.is_error:
                raise HostError(f"TorchServe did not register {archive.address}: {' '.join(response.json()['message'].split())}")

    def unregister(self, address: str) -> None:
        """End the workers of a version and forget it. Raises HostError."""
        with _understood(f"unregister {address}"), unix_socket.client(self._socket, SCALE_TIMEOUT) as client:
            client.delete(f"/models/{address}").raise_for_status()

    def set_default(self, archive: Archive) -> None:
        """Let this version answer requests that name none. Raises HostError."""
        with _understood(f"make {archive.address} the default version"):
            self._put(f"/models/{archive.address}/set-default", {})

    def _put(self, path: str, parameters: Mapping[str, str | int]) -> None:
        with unix_socket.client(self._socket, SCALE_TIMEOUT) as client:
            client.put(path, params=dict(parameters)).raise_for_status()

    def queue_is_empty(self, model: str) -> bool:
        """Return whether no request of the model waits in TorchServe's queue; False when TorchServe does not say."""
        try:
            description = self.describe(model)
            with _understood(f"describe {model}"):
                return not description["jobQueueStatus"]["pendingRequests"]
        except HostError:
            return False


def _names(client: httpx.Client) -> Iterator[str]:
    """Yield the names of the models, which TorchServe lists a hundred at a time."""
    parameters: dict[str, str] = {}
    while True:
        page = client.get("/models", params=parameters).raise_for_status().json()
        yield from (str(model["modelName"]) for model in page["models"])
        if not page.get("nextPageToken"):
            return
        parameters = {"next_page_token": str(page["nextPageToken"])}


@contextlib.contextmanager
def _understood(what: str) -> Iterator[None]:
    """Raise HostError when TorchServe does not answer, answers with an error, or answers something else than was expected."""
    try:
        yield
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as e:
        raise HostError(f"TorchServe did not {what} ({type(e).__name__})") from e

"""Ask a running TorchServe: its tokens, its models and workers, and whether it answers predictions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from host.archives import Archive
from host.torchserve.configuration import Addresses

HEALTH_TIMEOUT = 5.0  # seconds in which a prediction must be answered


def is_answering(url: str, model: str, example: Mapping[str, Any], headers: Mapping[str, str], timeout: float = HEALTH_TIMEOUT) -> bool:
    """Return whether the server at `url` answers a real prediction of `model`: what ready and healthy mean."""
    try:
        return httpx.post(f"{url}/predictions/{model}", json=dict(example), headers=headers, timeout=timeout).status_code == 200
    except httpx.HTTPError:
        return False


class Management:
    """The management API of one start of TorchServe, and the tokens that TorchServe wrote at that start.

    The tokens are kept once they were read: a server whose key_file.json is gone can still be asked, drained and stopped.
    """

    def __init__(self, addresses: Addresses, key_file: Path) -> None:
        self._url, self._key_file = addresses.management_url, key_file
        self._keys: dict[str, str] = {}

    def token(self, kind: str) -> str:
        """Return the token for `inference` or `management`. Raises OSError, ValueError or KeyError before TorchServe has written it."""
        if not self._keys:
            document = json.loads(self._key_file.read_text())
            self._keys = {name: str(document[name]["key"]) for name in ("inference", "management")}
        return self._keys[kind]

    def headers(self, kind: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(kind)}"}

    def describe(self, model: str) -> dict[str, Any]:
        """Return TorchServe's description of a model: workers with their process ids, and the state of its queue."""
        response = httpx.get(f"{self._url}/models/{model}", headers=self.headers("management"), timeout=10)
        description: dict[str, Any] = response.json()[0]
        return description

    def is_ready(self, url: str, archive: Archive) -> bool:
        """Return whether every worker of the model is READY and the model answers a prediction: `/ping` of TorchServe says neither."""
        try:
            workers = self.describe(archive.name)["workers"]
            if not all(worker["status"] == "READY" for worker in workers):
                return False
            return is_answering(url, archive.name, archive.example(), self.headers("inference"))
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            return False

    def queue_is_empty(self, model: str) -> bool:
        """Return whether no request of the model waits in TorchServe's queue; False when TorchServe does not say."""
        try:
            return not self.describe(model)["jobQueueStatus"]["pendingRequests"]
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            return False

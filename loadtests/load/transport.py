"""Send requests over kept-alive connections, by geventhttpclient as Locust's fast user does."""

import ssl
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gevent
import orjson
from geventhttpclient import HTTPClient

from loadtests.load.checks import Reply

TIMEOUT = 60.0  # seconds for a connection, and for each part of an answer
TOKEN_REFUSED = frozenset({400, 401, 403})  # TorchServe: 400 InvalidKeyException


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. A token `@FILE` is read from a server's `key_file.json`, and read again when it is refused."""

    url: str
    model: str
    token: str = ""
    insecure: bool = False  # accept any certificate
    authority: str = ""  # file with the certificates to trust; empty for the system's

    @property
    def path(self) -> str:
        """The path of a prediction."""
        return f"/predictions/{self.model}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request, with the token as it is now."""
        token = read_token(self.token)
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def verify(self) -> ssl.SSLContext | bool:
        """Return what httpx takes as `verify`."""
        return ssl.create_default_context(cafile=self.authority) if self.authority else not self.insecure


def read_token(token: str) -> str:
    """Return a token, or the inference key in the file that `@FILE` names; empty while the file cannot be read."""
    if not token.startswith("@"):
        return token
    try:
        return str(orjson.loads(Path(token[1:]).read_bytes())["inference"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Connection:
    """One connection to a target, opened when it is needed."""

    def __init__(self, target: Target) -> None:
        options: dict[str, Any] = {"ca_certs": target.authority} if target.authority else {}
        self._target, self._path, self._headers = target, target.path, target.headers
        self._http = HTTPClient.from_url(
            target.url,
            concurrency=1,
            insecure=target.insecure,
            ssl_options=options,
            connection_timeout=TIMEOUT,
            network_timeout=TIMEOUT,
        )

    def send(self, body: bytes, path: str = "", attempt: int = 1) -> Reply:
        """Send one request; `path` is a template of another protocol's. A status of 0 stands for no complete answer."""
        path = path.format(model=self._target.model) if path else self._path
        try:
            response = self._http.request("POST", path, body=body, headers=self._headers)
            return self._reply(response.status_code, bytes(response.read()), attempt)
        except (OSError, HTTPException, gevent.Timeout) as e:
            return Reply(0, f"{type(e).__name__}: {e}".encode(), attempt)

    def _reply(self, status: int, content: bytes, attempt: int) -> Reply:
        renewed = status in TOKEN_REFUSED and self._target.token.startswith("@") and (status != 400 or b"InvalidKey" in content)
        if renewed:
            self._headers = self._target.headers
        return Reply(status, content, attempt, renewed)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

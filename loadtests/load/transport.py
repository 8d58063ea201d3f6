"""Send requests over kept-alive connections, by geventhttpclient as Locust's fast user does."""

import ssl
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gevent
from geventhttpclient import HTTPClient

from loadtests.load.checks import Reply
from loadtests.load.exchange import HEADER_LENGTH, Exchange

TIMEOUT = 60.0  # seconds for a connection, and for each part of an answer
KEY_REFUSED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. A token `@FILE` is the API key in that file, and is read again when it is refused."""

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
        return {"Content-Type": "application/json", **authorization(self.token)}

    def verify(self) -> ssl.SSLContext | bool:
        """Return what httpx takes as `verify`."""
        return ssl.create_default_context(cafile=self.authority) if self.authority else not self.insecure


def authorization(token: str) -> dict[str, str]:
    """Return the header for an API key, or for the one in the file that `@FILE` names; none without a key that can be read."""
    if token.startswith("@"):
        try:
            token = Path(token[1:]).read_text().strip()
        except OSError:
            token = ""
    return {"Authorization": f"Bearer {token}"} if token else {}


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

    def send(self, exchange: Exchange, attempt: int = 1) -> Reply:
        """Send one request. A status of 0 stands for no complete answer."""
        path = exchange.path.format(model=self._target.model) if exchange.path else self._path
        try:
            response = self._http.request("POST", path, body=exchange.body, headers={**self._headers, **exchange.headers})
            return self._reply(response, attempt)
        except (OSError, HTTPException, gevent.Timeout) as e:
            return Reply(0, f"{type(e).__name__}: {e}".encode(), attempt)

    def _reply(self, response: Any, attempt: int) -> Reply:
        length = response.get(HEADER_LENGTH)
        renewed = response.status_code in KEY_REFUSED and self._target.token.startswith("@")
        if renewed:
            self._headers = self._target.headers
        return Reply(response.status_code, bytes(response.read()), attempt, int(length) if length else None, renewed)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

"""No token, no service: neither for predictions nor for management, and one token does not open the other door."""

from pathlib import Path

import httpx
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Connect
from tests.support.served_models import Model

pytestmark = pytest.mark.e2e


def wrong_headers(server: TorchServe, right: str, other: str) -> list[dict[str, str]]:
    """No token, the other door's, and what is nearly the right one."""
    token = server.token(right)
    return [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {token[:-1]}"},
        {"Authorization": f"Bearer {token.swapcase()}x"},
        {"Authorization": f"Basic {token}"},
        {"Authorization": token},
        server.headers(other),
    ]


def test_a_prediction_without_its_token_is_refused_and_reaches_nothing(
    served: TorchServe, zoo: dict[str, Model], connect: Connect, session: str
) -> None:
    client, row = connect(served, "two"), zoo["two"].inputs(1, seed=1)
    client.ask(inputs=row, session={"id": session, "step": 0})
    for headers in wrong_headers(served, "inference", "management"):
        response = httpx.post(client.url, json={"inputs": row, "session": {"id": session, "step": 1}}, headers=headers)
        assert response.status_code == 400, (headers, response.text)
        assert "Token Authorization failed" in response.text
    assert client.position(session) == 1


def test_management_needs_a_token_of_its_own(served: TorchServe) -> None:
    for headers in wrong_headers(served, "management", "inference"):
        for method, path in (("GET", "/models"), ("GET", "/models/two"), ("DELETE", "/models/two"), ("PUT", "/models/two?min_worker=0")):
            response = httpx.request(method, f"{served.management_url}{path}", headers=headers)
            assert response.status_code == 400, (method, path, headers, response.text)
    assert served.describe("two")["minWorkers"] == 1


def test_no_archive_can_be_registered_over_http(served: TorchServe, lone_store: Path) -> None:
    response = httpx.post(
        f"{served.management_url}/models", params={"url": f"file://{lone_store}/one.mar"}, headers=served.headers("management")
    )
    assert 400 <= response.status_code < 500, response.text


def test_the_tokens_are_readable_by_their_owner_alone(served: TorchServe) -> None:
    assert (served.folder / "key_file.json").stat().st_mode & 0o077 == 0

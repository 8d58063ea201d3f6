"""The generator's ceiling is measured with answers that are checked as always."""

from pathlib import Path

import httpx

from loadtests.load.ceiling import ceiling, null_server, sentence
from loadtests.load.running import Plan
from tests.conftest import Exported


def test_a_null_server_answers_requests_that_arrive_in_pieces_or_together() -> None:
    with null_server(b'{"a":1}') as url, httpx.Client() as client:
        assert [client.post(url, content=b"x" * size).json() for size in (0, 10, 100_000)] == [{"a": 1}] * 3


def test_the_ceiling_is_a_rate_of_right_answers(two: Exported, tmp_path: Path) -> None:
    result = ceiling(Plan(two.built.archive.parent, "two", seconds=3.0, users=4), tmp_path)
    total = result.measurements.total()
    assert (total.failed, total.wrong) == (0, 0)
    assert total.answered > 300
    assert "checked requests a second from 1 process," in sentence(result, 1)

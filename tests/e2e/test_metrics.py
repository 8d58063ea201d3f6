"""What Prometheus would scrape: the counts of both workers of a model, added up by the host, for a caller with a key."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from host.torchserve.launcher import TorchServe, serving
from tests.support.http_client import Client, until
from tests.support.served_models import Model

pytestmark = pytest.mark.e2e
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


@pytest.fixture(scope="module")
def counting(pair_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    environment = {"CELLSTATE_METRICS_INTERVAL": "0.2", "CELLSTATE_MAX_SESSIONS": "3"}
    with serving(tmp_path_factory.mktemp("counting"), pair_store, environment=environment) as server:
        yield server


def scrape(server: TorchServe) -> dict[str, float]:
    """`name/label/label` to value, without the labels that all share."""
    found = {}
    for line in httpx.get(server.metrics_url, headers=server.headers()).text.splitlines():
        if not line.startswith("#") and (match := SAMPLE.fullmatch(line)):
            labels = [v for k, v in re.findall(r'(\w+)="([^"]*)"', match[2] or "") if k not in ("model_name", "model_version", "Hostname")]
            found["/".join([match[1], *labels])] = float(match[3])
    return found


def test_what_happened_is_counted_over_both_workers(counting: TorchServe, zoo: dict[str, Model]) -> None:
    x, names = zoo["two"].inputs(4, seed=1), "abc"
    with Client(counting, "two") as client:
        for n in range(4):
            for id in names:
                client.ask(inputs=[x[n]], session={"id": id, "step": n})
        client.ask(inputs=[x[3]], session={"id": "a", "step": 3})
        assert client.send(inputs=[x[3]], session={"id": "b", "step": 9}).status_code == 409
        assert client.send(inputs=[x[3]], session={"id": "one too many", "step": 0}).status_code == 422
        refused = client.send(inputs=[x[3]], session={"id": "d", "step": 0})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
        client.ask(session={"id": "c", "action": "close"})
    expected = {
        "cellstate_steps_applied_total": 12,
        "cellstate_steps_replayed_total": 1,
        "cellstate_steps_refused_total/step_conflict": 1,
        "cellstate_steps_refused_total/quota_exceeded": 1,
        "cellstate_sessions_created_total/step": 3,
        "cellstate_requests_total/step/ok": 13,
        "cellstate_requests_total/unread/invalid_input": 1,
        "cellstate_sessions_closed_total": 1,
        "cellstate_stage_seconds_count/commit": 13,
    }
    until(lambda: expected.items() <= scrape(counting).items(), "every count")  # each worker reports by itself
    seen = scrape(counting)
    assert seen["cellstate_stage_seconds_bucket/commit/+Inf"] == 13
    assert seen["cellstate_stage_seconds_sum/run"] > 0


def test_the_metrics_say_nothing_of_a_session(counting: TorchServe) -> None:
    with Client(counting, "two") as client:
        client.send(inputs=[[0.0] * 3], session={"id": "a-name-of-its-own", "step": 0})
    until(lambda: any("unread" in name or "quota" in name for name in scrape(counting)), "a count")
    assert "a-name-of-its-own" not in httpx.get(counting.metrics_url, headers=counting.headers()).text


def test_the_host_understood_every_line(counting: TorchServe) -> None:
    assert "Failed to parse metrics line" not in counting.log.read_text()
    assert "[METRICS]" not in counting.log.read_text()

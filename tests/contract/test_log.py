"""One line for each request, when asked for, as text or as JSON."""

import gzip
import json
import logging
import time

import orjson
import pytest

from handlers.keys import Caller, KeyRing, dump, generate
from handlers.metrics import Telemetry
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from handlers.torchserve.logs import JsonFormatter
from tests.conftest import ask, make_service

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def lines(caplog):
    """What was logged of the requests, decoded."""
    caplog.set_level(logging.INFO, logger="cellstate")
    return lambda: [json.loads(line.partition(" ")[2]) for record in caplog.records if (line := record.getMessage()).startswith("request ")]


def test_each_request_is_one_line_with_its_outcome_and_no_payload(two, caplog, lines):
    service = make_service(two, log_requests="all")
    row = two.sequence(2).tolist()
    ask(
        service,
        {"inputs": row, "session": {"id": "meter-7", "step": 0}},
        {"inputs": "a secret\nline"},
        {"instances": [{"inputs": row}, {}]},
    )
    assert all("secret" not in record.getMessage() and "\n" not in record.getMessage() for record in caplog.records)
    names = ("session", "action", "steps", "rows", "errors", "status", "code", "batch")
    assert [tuple(line[name] for name in names) for line in lines()] == [
        ("meter-7", "step", 2, 1, 0, 200, "ok", 3),
        (None, None, 0, 1, 1, 422, "invalid_input", 3),
        (None, None, 2, 2, 1, 200, None, 3),
    ]
    assert all(line["model"] == "two-1.0" and 0 < line["seconds"] < 60 for line in lines())


def test_only_requests_with_errors_are_logged_where_only_those_are_asked_for(two, lines):
    row = two.sequence(1).tolist()
    ask(make_service(two, log_requests="errors"), {"inputs": row}, {"inputs": 1}, {"instances": [{"inputs": row}, {}]})
    assert [line["errors"] for line in lines()] == [1, 1]


def test_without_the_setting_nothing_is_logged(two, caplog):
    caplog.set_level(logging.INFO, logger="cellstate")
    ask(make_service(two), {"inputs": two.sequence(1).tolist()})
    assert not caplog.records


def test_a_line_tells_the_key_its_tenant_and_the_ids_also_of_a_refused_request(two, lines, tmp_path):
    keys = [generate(Caller(name, "acme", frozenset([scope])), time.time()) for name, scope in (("meter", "predict"), ("probe", "operate"))]
    (tmp_path / "keys.json").write_bytes(dump([key for _, key in keys]))
    frontend = Frontend(make_service(two, log_requests="all").frontend.service, KeyRing(tmp_path / "keys.json"))
    body = orjson.dumps({"inputs": two.sequence(1).tolist()})
    sent = [{"x-api-key": text} for text, _ in keys] + [{}]
    frontend.handle_batch([HttpRequest(body, headers | {"traceparent": TRACE}, id=f"id-{i}") for i, headers in enumerate(sent)])
    names = ("request_id", "traceparent", "key", "tenant", "status", "code")
    assert [tuple(line[name] for name in names) for line in lines()] == [
        ("id-0", TRACE, "meter", "acme", 200, "ok"),
        ("id-1", TRACE, "probe", None, 403, "forbidden"),
        ("id-2", TRACE, None, None, 401, "unauthenticated"),
    ]


def test_a_request_that_is_refused_for_its_compression_is_its_callers_in_the_log_and_the_metrics(two, lines, tmp_path):
    text, key = generate(Caller("meter", "acme"), time.time())
    (tmp_path / "keys.json").write_bytes(dump([key]))
    telemetry = Telemetry(("two", "1.0"))
    service = make_service(two, telemetry=telemetry, log_requests="all", max_body=1_000)
    frontend = Frontend(service.frontend.service, KeyRing(tmp_path / "keys.json"))
    bomb = gzip.compress(b" " * 100_000)
    sent = [({"x-api-key": text}, bomb), ({"x-api-key": text}, b"{}"), ({}, bomb)]
    frontend.handle_batch([HttpRequest(body, headers | {"content-encoding": "gzip"}) for headers, body in sent])
    assert [tuple(line[name] for name in ("key", "tenant", "code")) for line in lines()] == [
        ("meter", "acme", "too_large"),
        ("meter", "acme", "malformed_json"),
        (None, None, "unauthenticated"),
    ]
    counted = [(dict(sample.labels), sample.value) for sample in telemetry.take() if sample.name == "cellstate_tenant_requests_total"]
    assert [value for labels, value in counted if (labels["tenant"], labels["outcome"]) == ("acme", "refused")] == [2]


def test_ids_of_another_form_are_not_logged(two, lines):
    frontend = make_service(two, log_requests="all").frontend
    frontend.handle_batch([HttpRequest(b"{}", {"traceparent": f"{TRACE}\nforged"}, id="a\nb")])
    assert [(line["request_id"], line["traceparent"]) for line in lines()] == [(None, None)]


def formatted(message, *arguments, **extra):
    record = logging.LogRecord("cellstate", logging.WARNING, "", 0, message, arguments, extra.pop("exc_info", None))
    record.__dict__ |= extra
    return json.loads(JsonFormatter().format(record))


def test_as_json_a_line_has_its_fields_as_members():
    line = formatted("request %s", "{}", fields={"key": "meter", "status": 200})
    assert (line["event"], line["level"], line["key"], line["status"]) == ("request", "WARNING", "meter", 200)
    assert "message" not in line
    line = formatted("store_unavailable store %s", "/x")
    assert (line["event"], line["message"]) == ("store_unavailable", "store_unavailable store /x")
    assert line["time"].endswith("+00:00")


def test_as_json_a_defect_has_its_traceback():
    try:
        raise RuntimeError("ours")
    except RuntimeError as e:
        line = formatted("internal_error", exc_info=(type(e), e, e.__traceback__))
    assert "RuntimeError: ours" in line["traceback"]

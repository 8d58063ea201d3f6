"""One canonical line for each request, when asked for."""

import json
import logging

from tests.conftest import ask, make_service


def test_each_request_is_one_line_with_its_outcome_and_no_payload(two, caplog):
    service = make_service(two, "onnxruntime")
    with caplog.at_level(logging.INFO, logger="cellstate"):
        ask(service, {"inputs": two.sequence(2).tolist(), "session": {"id": "meter-7", "step": 0}}, {"inputs": "a secret\nline"})
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("request {") and "secret" not in line and "\n" not in line for line in lines)
    first, second = (json.loads(line.removeprefix("request ")) for line in lines)
    assert (first["session"], first["action"], first["steps"], first["status"], first["code"], first["batch"]) == (
        "meter-7",
        "step",
        2,
        200,
        "ok",
        2,
    )
    assert (second["session"], second["status"], second["code"]) == (None, 422, "invalid_input")


def test_without_the_setting_nothing_is_logged(two, caplog):
    with caplog.at_level(logging.WARNING, logger="cellstate"):
        ask(make_service(two, "onnxruntime"), {"inputs": two.sequence(1).tolist()})
    assert not caplog.records

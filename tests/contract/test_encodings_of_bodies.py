"""Bodies that are compressed, or are no JSON in UTF-8: decoded within the size limit, or refused with a message that says what they are."""

import gzip

import orjson
import pytest

from handlers.keys import KeyRing, dump
from handlers.protocols.base import KSERVE, HttpRequest
from handlers.protocols.frontend import Frontend
from tests.conftest import answer, make_service, refusal

GZIP = {"content-encoding": "gzip"}


@pytest.fixture
def service(two):
    return make_service(two, max_body=20_000)


def send(service, body, headers=GZIP, path=""):
    [response] = service.frontend.handle_batch([HttpRequest(body, headers, path)])
    return response.status, orjson.loads(response.body)


def refused(service, body, headers=GZIP):
    status, document = send(service, body, headers)
    return status, document["error"]["code"], document["error"]["message"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP ", "identity"])
def test_a_compressed_body_is_answered_as_the_body_itself(two, service, encoding):
    request = {"inputs": two.sequence(3).tolist()}
    body = orjson.dumps(request)
    sent = body if encoding == "identity" else gzip.compress(body)
    status, reply = send(service, sent, {"content-encoding": encoding})
    assert (status, reply) == (200, answer(service, request))


def test_compressed_bodies_of_other_protocols_are_decoded_too(two, service):
    rows = two.sequence(2)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, *rows.shape], "data": rows.ravel().tolist()}
    for paths, document, field in (
        (("/v2/models/two/infer", KSERVE), {"inputs": [tensor]}, "outputs"),
        (("/v1/models/two:predict", KSERVE), {"instances": [rows.tolist()]}, "predictions"),
    ):
        for path in paths:
            status, reply = send(service, gzip.compress(orjson.dumps(document)), GZIP, path)
            assert (status, field in reply) == (200, True), reply


def test_a_body_that_grows_beyond_the_limit_is_refused_and_not_decoded_further(service):
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 60_000
    assert refused(service, bomb) == (413, "too_large", "body: more than 20000 bytes once decoded, at most 20000")


def test_what_is_no_gzip_or_not_all_of_it_is_refused_beside_a_good_request(two, service):
    good = gzip.compress(orjson.dumps({"inputs": two.sequence(1).tolist()}))
    for body, text in (
        (b'{"inputs": []}', "it is no gzip data"),
        (good[:-9], "cut off"),
        (good + b"more", "more follows"),
        (good + good, "one gzip member"),
        (good[:-6] + b"\0\0" + good[-4:], "it is no gzip data"),
        (b"", "cut off"),
    ):
        first, second = service.frontend.handle_batch([HttpRequest(body, GZIP), HttpRequest(good, GZIP)])
        assert (first.status, second.status) == (400, 200)
        assert text in orjson.loads(first.body)["error"]["message"]


def test_another_encoding_is_named(service):
    assert refused(service, b"x", {"content-encoding": "br"}) == (
        400,
        "malformed_json",
        "Content-Encoding: expected gzip, or none, got 'br'",
    )


def test_a_body_without_a_key_is_not_decoded(service, tmp_path):
    (tmp_path / "keys.json").write_bytes(dump([]))
    guarded = Frontend(service.frontend.service, KeyRing(tmp_path / "keys.json"))
    [response] = guarded.handle_batch([HttpRequest(b"no gzip", GZIP)])
    assert response.status == 401


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (gzip.compress(b"{}", mtime=0), "it is gzip data, and no header Content-Encoding: gzip says so"),
        (b'{"inputs": "\xff"}', "not UTF-8: byte 0xff at position 12"),
        ('{"inputs": [1]}'.encode("utf-16"), "not UTF-8: byte 0xff at position 0"),
        ('{"ä": 1}'.encode("latin-1"), "not UTF-8: byte 0xe4 at position 2"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"inputs=1", "expected a JSON value"),
    ],
)
def test_a_body_that_is_no_json_in_utf_8_is_told_what_it_is(service, body, text):
    status, code, message = refused(service, body, {})
    assert (status, code) == (400, "malformed_json")
    assert text in message


def test_null_instances_beside_a_request_say_what_to_leave_out(two, service):
    status, code, error = refusal(service, {"inputs": two.sequence(1).tolist(), "instances": None})
    assert (status, code) == (422, "invalid_input")
    assert error["message"].startswith("instances: null beside other fields: leave it out")


@pytest.mark.parametrize(("step", "text"), [(1.0, "1.0: write it without a decimal point"), (1.5, "a number"), ("1", "a string")])
def test_a_step_that_is_no_integer_says_how_to_write_it(two, service, step, text):
    status, code, error = refusal(service, {"inputs": two.sequence(1).tolist(), "session": {"id": "a", "step": step}})
    assert (status, code) == (422, "invalid_input")
    assert error["message"].startswith(f"session.step: expected an integer, got {text}")

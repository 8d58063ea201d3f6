"""What the client sends, how long it waits, and what it makes of each answer: exchanges driven by hand, on a clock of their own."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import MappingProxyType

import numpy as np
import pytest

from cellstate import errors, wire
from cellstate.exchange import Caller, RetryPolicy, Send, Wait
from cellstate.tokens import TokenSource
from cellstate.wire import Response
from handlers import errors as served

DOCUMENT = {"inputs": [1.0], "session": {"id": "a", "step": 0}}
REFUSED = Response(401, {}, b'{"error": {"code": "unauthenticated", "message": "the key is not known", "details": {}}}')


class Draw:
    """Runs an exchange: answers each Send with the next outcome, and moves the clock at each Wait."""

    def __init__(self, token=None, share=1.0, **policy):
        self.now, self.sent, self.pauses, self.events = 0.0, [], [], []
        uniform = lambda low, high: low + share * (high - low)  # noqa: E731
        self.policy = RetryPolicy(clock=lambda: self.now, uniform=uniform, on_retry=self.events.append, **policy)
        self.caller = Caller(TokenSource(token), self.policy)

    def post(self, *outcomes):
        return self.run(self.caller.post("/predictions/m", DOCUMENT), *outcomes)

    def run(self, exchange, *outcomes):
        remaining, outcome = list(outcomes), None
        while True:
            try:
                event = exchange.send(outcome)
            except StopIteration as done:
                return done.value
            outcome = None
            if isinstance(event, Wait):
                self.pauses.append(event.seconds)
                self.now += event.seconds
            else:
                self.sent.append(event)
                outcome = remaining.pop(0) if remaining else errors.ConnectionFailed("nothing more")


def ok(**document):
    return Response(200, {}, json.dumps(document).encode())


def refused(status, code, headers=None, **more):
    return Response(status, headers or {}, json.dumps({"error": {"code": code, "message": "as it says", "details": {}} | more}).encode())


def host(status, kind="InternalServerException"):
    return Response(status, {}, json.dumps({"code": status, "type": kind, "message": "Worker died."}).encode())


LOST = errors.ConnectionFailed("ReadTimeout")


@pytest.mark.parametrize(
    "failure",
    [
        LOST,
        *map(host, sorted(errors.RETRYABLE_STATUS)),
        refused(429, "overloaded", retryable=True),
        Response(502, {}, b"<html>bad gateway</html>"),
    ],
    ids=lambda failure: str(getattr(failure, "status", "lost")),
)
def test_what_may_be_repeated_is_sent_again_byte_for_byte(failure):
    draw = Draw()
    assert draw.post(failure, failure, ok(prediction=[1])) == {"prediction": [1]}
    assert len(draw.sent) == 3
    assert len({event.content for event in draw.sent}) == 1
    assert json.loads(draw.sent[0].content) == DOCUMENT
    assert [event.attempt for event in draw.events] == [1, 2]


@pytest.mark.parametrize(
    ("share", "pauses"), [(1.0, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]), (0.5, [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]), (0.0, [0.0] * 6)]
)
def test_pauses_are_drawn_from_zero_to_a_limit_that_doubles(share, pauses):
    draw = Draw(share=share, max_pause=1.0)
    draw.post(*[LOST] * 6, ok())
    assert draw.pauses == pytest.approx(pauses)


def test_a_call_ends_at_its_deadline_with_the_last_error_as_its_cause():
    draw = Draw(deadline=10.0, max_pause=4.0)
    with pytest.raises(
        errors.DeadlineExceeded, match=r"no answer within 10 s in \d+ attempts; the last: 503 host_error: Worker died"
    ) as raised:
        draw.post(*[host(503)] * 99)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value.__cause__, errors.HostError)
    assert 5.0 < draw.now < 10.0


def test_an_attempt_is_never_given_more_time_than_is_left():
    draw = Draw(deadline=10.0, timeout=8.0, first_pause=4.0)
    draw.post(LOST, ok())
    assert [event.timeout for event in draw.sent] == [8.0, 6.0]


@pytest.mark.parametrize(("share", "pause"), [(0.0, 7.0), (1.0, 7.1)])
def test_retry_after_is_waited_for_before_the_drawn_pause(share, pause):
    draw = Draw(share=share)
    draw.post(refused(503, "draining", {"retry-after": "7"}, retryable=True), ok())
    assert draw.pauses == [pause]


def test_retry_after_may_be_a_date():
    draw = Draw(share=0.0)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20))
    draw.post(refused(503, "draining", {"retry-after": date}, retryable=True), ok())
    assert 10 < draw.pauses[0] <= 20


@pytest.mark.parametrize("value", ["soon", "-3", "1.5.2", ""])
def test_a_retry_after_that_says_nothing_is_ignored(value):
    draw = Draw(share=0.0)
    draw.post(refused(503, "draining", {"retry-after": value}, retryable=True), ok())
    assert draw.pauses == [0.0]


def test_a_retry_after_beyond_the_deadline_is_not_waited_for():
    draw = Draw(deadline=5.0)
    with pytest.raises(errors.DeadlineExceeded):
        draw.post(refused(503, "draining", {"retry-after": "60"}, retryable=True))
    assert draw.now == 0.0


def leaves(kind):
    """The errors of the tree that no other one of the tree derives from; a part of the service may tell one of them apart for itself."""
    below = [leaf for child in kind.__subclasses__() if child.__module__ == kind.__module__ for leaf in leaves(child)]
    return below or [kind]


@pytest.mark.parametrize("kind", leaves(errors.CellstateError), ids=lambda kind: kind.__name__)
def test_an_error_passes_between_processes(kind):
    if issubclass(kind, errors.ApiError):
        error = kind("as it says", status=418, code="code", details={"expected": 3}, retryable=True, retry_after=2.0)
    else:
        error = kind("as it says")
    for same in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (type(same), str(same), same.args, vars(same)) == (kind, str(error), error.args, vars(error))


@pytest.mark.parametrize("kind", [*leaves(served.RequestError), *leaves(served.SessionError), *leaves(served.ServiceError)])
def test_every_error_of_the_service_has_an_exception_with_its_status_and_a_remedy(kind):
    error = kind("as it says", expected=7)
    draw, answer = Draw(deadline=1.0), Response(kind.status, {}, json.dumps({"error": error.body()}).encode())
    with pytest.raises(errors.CellstateError) as raised:
        draw.post(*[answer] * 99)
    found = raised.value.__cause__ if kind.retryable else raised.value
    assert type(found).__name__ == kind.__name__
    assert (found.status, found.code, found.message, found.details) == (kind.status, kind.code, error.body()["message"], {"expected": 7})
    assert type(found).status == kind.status
    assert found.remedy
    assert found.retryable is kind.retryable


def test_a_code_of_a_later_service_is_still_an_api_error():
    with pytest.raises(errors.ApiError) as raised:
        Draw().post(refused(418, "teapot", details=None))
    assert (raised.value.status, raised.value.code, raised.value.details) == (418, "teapot", {})


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (host(404, "ModelNotFoundException"), errors.ModelNotFound),
        (host(413, "TooLarge"), errors.TooLarge),
        (host(405), errors.HostError),
        (Response(403, {}, b""), errors.Forbidden),
        (Response(401, {}, b'{"error": "no key"}'), errors.Unauthenticated),
        (REFUSED, errors.Unauthenticated),
        (Response(200, {}, b"<html>"), errors.UnexpectedReply),
        (Response(200, {}, b"[1]"), errors.UnexpectedReply),
        (Response(200, {}, b"[" * 100_000), errors.UnexpectedReply),
        (Response(307, {"location": "https://elsewhere.test/"}, b""), errors.HostError),
        (errors.ConnectionFailed("UnsupportedProtocol", retryable=False), errors.ConnectionFailed),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_succeed_is_raised_at_once(answer, kind):
    draw = Draw("a fixed token")
    with pytest.raises(kind):
        draw.post(answer)
    assert len(draw.sent) == 1


def test_an_error_without_a_body_says_so():
    """As TorchServe's own for a body over its limit."""
    with pytest.raises(errors.TooLarge, match="413 too_large: an answer without a body") as raised:
        Draw().post(Response(413, {}, b""))
    assert "Send fewer steps" in raised.value.remedy


def test_a_redirection_says_where_to():
    with pytest.raises(errors.HostError, match=r"307 host_error: redirected to https://elsewhere\.test/: give the client"):
        Draw().post(Response(307, {"location": "https://elsewhere.test/"}, b"<html>"))


def test_infinity_is_refused_before_anything_is_sent():
    draw = Draw()
    with pytest.raises(ValueError, match="Out of range float values"):
        draw.run(draw.caller.post("/", {"inputs": [float("inf")]}))
    assert not draw.sent


def test_numbers_and_times_of_other_libraries_are_sent_as_json_s_own():
    observation = MappingProxyType({"time": datetime(2018, 9, 29, 23), "load": np.float32(1.5), "hour": np.int64(3)})
    sent = json.loads(wire.encode(wire.request([observation], horizon=np.int64(2), levels=np.array([80, 95]))))
    expected = {"time": "2018-09-29T23:00:00", "load": 1.5, "hour": 3}
    assert sent == {"observations": [expected], "horizon": 2, "levels": [80, 95]}
    sent = json.loads(wire.encode(wire.request((dict(observation, load=np.float32("nan")),))))
    assert sent == {"observations": [expected | {"load": None}]}
    with pytest.raises(TypeError, match="expected numbers, texts and times, got set"):
        wire.encode({"inputs": {1}})


def test_inputs_are_the_rows_of_a_table_and_never_the_names_of_its_columns():
    class Table(dict):
        def to_numpy(self):
            return np.array(list(self.values())).T

    assert wire.request(Table({0: [1.0, 2.0], 1: [3.0, 4.0]})) == {"inputs": [[1.0, 3.0], [2.0, 4.0]]}
    with pytest.raises(TypeError, match="expected numbers, got dict"):
        wire.request({0: [1.0, 2.0]})


def test_an_option_that_there_is_not_is_an_error_and_not_left_out():
    with pytest.raises(TypeError, match="unknown options: commit, horizn; known: horizon, future, levels, paths, returns, state"):
        wire.request([1.0], horizn=3, commit=False)


def test_a_missing_measurement_is_null():
    draw = Draw()
    draw.run(draw.caller.post("/", {"inputs": [[1.5, float("nan")]], "session": {"id": "a"}}), ok())
    assert json.loads(draw.sent[0].content) == {"inputs": [[1.5, None]], "session": {"id": "a"}}


# Tokens.


def authorizations(draw):
    return [event.headers.get("Authorization") for event in draw.sent]


def test_without_a_token_none_is_sent():
    draw = Draw()
    draw.post(ok())
    assert authorizations(draw) == [None]


def test_a_refused_token_is_read_again_and_the_request_repeated(tmp_path):
    path = tmp_path / "key"
    tokens = iter(["old", "new"])
    for token in (lambda: next(tokens), path):
        path.write_text("old\n")
        draw = Draw(token)
        exchange = draw.caller.post("/", DOCUMENT)
        draw.sent.append(next(exchange))
        path.write_text("new\n")
        wait = exchange.send(REFUSED)
        assert isinstance(wait, Wait)
        draw.sent.append(exchange.send(None))
        assert authorizations(draw) == ["Bearer old", "Bearer new"]
        assert draw.sent[0].content == draw.sent[1].content


def test_a_token_file_that_cannot_be_read_now_leaves_the_old_token(tmp_path):
    path = tmp_path / "key"
    path.write_text("old\n")
    draw = Draw(path)
    exchange = draw.caller.post("/", DOCUMENT)
    draw.sent.append(next(exchange))
    path.write_text("")
    exchange.send(REFUSED)
    draw.sent.append(exchange.send(None))
    assert authorizations(draw) == ["Bearer old"] * 2


def test_a_token_that_is_refused_however_often_it_is_read_is_an_error():
    draw = Draw(lambda: "wrong")
    with pytest.raises(errors.Unauthenticated):
        draw.post(*[REFUSED] * 99)
    assert len(draw.sent) == 4


def test_a_token_file_that_is_not_there_at_first_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        Draw(tmp_path / "key").post()


# Rows.


def rows(draw, count, *outcomes):
    return draw.run(draw.caller.post_rows("/", [{"row": i} for i in range(count)]), *outcomes)


def sent_rows(draw):
    return [[row["row"] for row in json.loads(event.content)["instances"]] for event in draw.sent]


OVERLOADED = {"error": {"code": "overloaded", "message": "again", "details": {}, "retryable": True}}
INVALID = {"error": {"code": "invalid_input", "message": "no", "details": {}}}


def test_only_the_rows_that_may_succeed_are_sent_again():
    draw = Draw()
    found = rows(
        draw,
        4,
        ok(predictions=[{"y": 0}, OVERLOADED, INVALID, OVERLOADED]),
        ok(predictions=[OVERLOADED, {"y": 3}]),
        ok(predictions=[{"y": 1}]),
    )
    assert sent_rows(draw) == [[0, 1, 2, 3], [1, 3], [1]]
    assert [row if isinstance(row, dict) else row.code for row in found] == [{"y": 0}, {"y": 1}, "invalid_input", {"y": 3}]
    assert found[2].status == 422


def test_rows_that_are_not_served_in_time_have_the_deadline_as_their_error():
    draw = Draw(deadline=1.0)
    found = rows(draw, 2, ok(predictions=[{"y": 0}, OVERLOADED]), *[ok(predictions=[OVERLOADED])] * 99)
    assert found[0] == {"y": 0}
    assert isinstance(found[1], errors.DeadlineExceeded)
    assert isinstance(found[1].__cause__, errors.Overloaded)


def test_an_error_of_the_whole_body_is_raised_when_no_row_was_answered_and_told_to_the_others_when_some_were():
    with pytest.raises(errors.TooLarge):
        rows(Draw(), 2, refused(413, "too_large"))
    found = rows(Draw(), 2, ok(predictions=[{"y": 0}, OVERLOADED]), refused(413, "too_large"))
    assert found[0] == {"y": 0}
    assert isinstance(found[1], errors.TooLarge)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"predictions": []},
        {"predictions": [1, 2]},
        {"predictions": {"a": 1, "b": 2}},
        {"predictions": [{"y": 0}, {"error": "a text"}]},
        {"predictions": [{"y": 0}, {"error": {"message": "no code"}}]},
    ],
)
def test_an_answer_with_other_rows_than_were_sent_is_unexpected(reply):
    with pytest.raises(errors.UnexpectedReply):
        rows(Draw(), 2, ok(**reply))


def test_no_rows_send_nothing():
    draw = Draw()
    assert rows(draw, 0) == []
    assert not draw.sent
    assert all(isinstance(event, Send) for event in draw.sent)

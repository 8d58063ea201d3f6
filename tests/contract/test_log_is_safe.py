"""Nothing a client sends reaches a log unescaped: what is hostile is refused by the parser, and what passes it is names and numbers."""

import io
import json
import logging
import re

import orjson
import pytest
from hypothesis import given

from handlers.engine.request import Request
from handlers.protocols.native.decode import Parser
from handlers.protocols.native.encode import Encoder
from handlers.sessions.reference import Action
from handlers.settings import Settings
from handlers.stores.memory import MemoryStore
from tests.archive.test_host_loads_it import work
from tests.conftest import answer, ask, make_service
from tests.support.json_strategies import bodies, requests
from tests.support.requests import act, step
from tests.support.signatures import TRAFFIC
from tests.support.store_wrappers import Broken

MARK = "hostile"
HOSTILE = (
    f"{MARK}\ncellstate ERROR forged",
    f"{MARK}\r\n[METRICS]Forged.Count:1|#Level:Host",
    f"\x1b[31m{MARK}\x1b]0;title\x07",
    f"${{jndi:ldap://{MARK}/a}}",
    f"%s%n%x{MARK}",
    f"{{{MARK}}}",
    f"{MARK}\u2028\u2029\x85{MARK}",
    f"\u202e{MARK}\u2066",
    f"'{MARK}'; drop",
    f'"{MARK}","status":200',
    f"{MARK} <script>",
    f"{MARK}\t\x0b\x0c\x7f",
)
ROW = [[1.0, 2.0, 3.0]]
LINE = re.compile(r"cellstate (INFO|WARNING|ERROR) [\x20-\x7e]*")


def places(text):
    """A request for each place where a client may put text."""
    yield from ({"inputs": ROW, "session": text}, {"inputs": ROW, "session": {"id": text, "step": 0}})
    yield from (act("a", "fork", to=text), act("a", text), act(text, "close"), {"session": {"id": "a", text: 1}})
    yield from ({text: 1}, {"inputs": text}, {"inputs": [text]}, {"inputs": [[text, 1, 2]]}, {"inputs": ROW, "return": [text]})
    yield from ({"inputs": ROW, "state": text}, {"inputs": ROW, "state": {text: []}}, {"inputs": ROW, "horizon": text})
    yield from ({"inputs": ROW, "horizon": 1, "future": [text]}, {"inputs": ROW, "commit": text}, {"instances": [{text: text}, text]})


def hostile(text):
    """Bodies: the places, and bytes that are no JSON."""
    whole = [orjson.dumps(place) for place in places(text)]
    raw = text.encode()
    return [*whole, raw, b'{"inputs": ' + raw, b'{"' + raw + b'": 1}', b'"' + raw + b'"', b"\xff" + raw, whole[0][:-3] + raw]


@pytest.fixture
def log():
    """What the log says, as a worker writes it."""
    logger, text = logging.getLogger("cellstate"), io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("cellstate %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("level", ["all", "none"])
def test_hostile_text_reaches_no_log_wherever_it_stands(two, log, caplog, capfd, text, level):
    service, sent = make_service(two, log_requests=level), hostile(text)
    logging.getLogger("cellstate").setLevel(logging.INFO)
    with caplog.at_level(logging.DEBUG):
        replies = ask(service, *sent)
    assert {status for status, reply in replies if "predictions" not in reply} <= {400, 404, 422}
    lines = log.getvalue().splitlines()
    assert len(lines) == (len(sent) if level == "all" else 0), "one for each request"
    assert all(LINE.fullmatch(line) for line in lines)
    assert MARK not in log.getvalue() + caplog.text + "".join(capfd.readouterr())


def test_a_session_that_a_line_names_has_a_harmless_id(two, log):
    """Every character that an id may have, and none that a terminal, a log's parser or its formatter takes for its own."""
    id = "AZaz09._:@/+=-"
    logging.getLogger("cellstate").setLevel(logging.INFO)
    answer(make_service(two, log_requests="all"), step(id, 0, two.sequence(1)))
    [line] = log.getvalue().splitlines()
    assert LINE.fullmatch(line)
    assert json.loads(line.partition("request ")[2])["session"] == id


@given(bodies(requests()))
def test_no_request_that_was_parsed_holds_free_text(body):
    parser = Parser(TRAFFIC, Settings())
    for request in parser.body(body)[0]:
        if isinstance(request, Request):
            session = request.session
            assert set(request.returns) <= set(parser.returns)
            assert session is None or isinstance(session.action, Action)
            ids = [id for id in (session.id, session.to) if id is not None] if session else []
            assert all(re.fullmatch(r"[A-Za-z0-9._:@/+=-]{1,128}", id) for id in ids)


def failing(encoder, result):
    """A defect of ours that tells in its message all that it has in hand."""
    raise RuntimeError(f"{result}")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_the_traceback_of_a_defect_tells_nothing_that_a_client_sent_but_numbers_and_ids(two, log, capfd, monkeypatch, text):
    service = make_service(two)
    monkeypatch.setattr(Encoder, "fields", failing)
    good = step("meter-7", 0, two.sequence(2), **{"return": ["h_n"]})
    replies = ask(service, good, *hostile(text), good | {"session": {"step": 0}})
    assert [replies[0][0], replies[-1][0]] == [500, 500]
    assert "Traceback" in log.getvalue()
    assert "RuntimeError" in log.getvalue()
    assert "RuntimeError" not in str(replies), "and the client is not told of it"
    assert MARK not in log.getvalue() + "".join(capfd.readouterr())
    assert not re.search(r"[^\x0a\x20-\x7e]", log.getvalue())


def test_a_store_that_fails_under_hostile_requests_logs_only_itself(two, log):
    service = make_service(two, store=Broken(MemoryStore(), "read", "commit", "sweep"), sweep_interval=1e-9)
    for text in HOSTILE:
        ask(service, *hostile(text), step("a", 0, two.sequence(1)))
    assert MARK not in log.getvalue()


def test_a_worker_of_the_host_prints_nothing_that_it_was_sent(two):
    """The real one, with its own logging: its standard output is the host's protocol for logs and metrics."""
    good = orjson.dumps({"inputs": ROW, "session": {"id": "meter-7", "step": 0}})
    sent = [good, *(body for text in HOSTILE for body in hostile(text) if body.decode(errors="ignore").encode() == body)]
    process, result = work(two.folder, *sent, CELLSTATE_STORE="memory://", CELLSTATE_LOG_REQUESTS="all")
    printed = [line for line in process.stdout.splitlines() if not line.startswith("RESULT ")]
    assert result is not None
    assert len([line for line in printed if "request {" in line]) >= len(sent)
    assert all(LINE.fullmatch(line) for line in printed if "METRICS" not in line), printed
    assert MARK not in "\n".join(printed) + process.stderr

"""The messages of TorchServe's worker: read however the network cut them, and read and written as TorchServe's own code does."""

import socket
import struct
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.protocol import otf_message_handler as theirs

from handlers.torchserve.messages import KNOWN_RELEASE, MessageReader, encode_responses, install


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8), st.data())
def test_every_byte_arrives_once_and_in_order(pieces, data):
    sent, read, reader = b"".join(pieces), b"", MessageReader()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for piece in pieces:
            theirs.sendall(piece)
        while len(read) < len(sent):
            length = data.draw(st.integers(0, len(sent) - len(read)))
            part = reader.read(ours, length)
            assert len(part) == length
            read += part
            if length == 0:
                read += reader.read(ours, 1)
    assert read == sent


def test_a_message_larger_than_the_buffer_is_read_whole():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 70_000)
        assert MessageReader().read(ours, 70_000) == b"x" * 70_000


def test_a_closed_connection_ends_the_worker():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"half")
        theirs.close()
        with pytest.raises(SystemExit):
            MessageReader().read(ours, 5)


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\5id", b"\0\0\0\2id"])
def test_a_connection_that_is_closed_within_a_batch_ends_the_worker(sent):
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(sent)
        theirs.close()
        with pytest.raises(SystemExit):
            MessageReader().read_batch(ours)


texts = st.text(st.characters(codec="utf-8"), max_size=9)
headers = st.dictionaries(texts, texts, max_size=3)
phrases = st.text("abc XYZ", max_size=9)  # TorchServe counts their characters and not their bytes: no others work
requests = st.lists(st.tuples(texts, headers, st.lists(st.tuples(texts, texts, st.binary(max_size=99)), max_size=2)), max_size=4)


def field(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!i", len(data)) + data


def message(requests):
    """What TorchServe's Java side sends for a batch, after the command."""
    end, sent = struct.pack("!i", -1), b""
    for request_id, headers, parameters in requests:
        sent += field(request_id) + b"".join(field(text) for item in headers.items() for text in item) + end
        sent += b"".join(field(value) for parameter in parameters for value in parameter) + end
    return sent + end


@given(requests)
def test_a_batch_is_read_as_torchserve_reads_it(undecoded, requests):
    read = []
    for reader in (theirs._retrieve_inference_msg, MessageReader().read_batch):
        ours, java = socket.socketpair()
        with ours, java:
            java.sendall(message(requests))
            read.append(reader(ours))
    assert read[0] == read[1]


@pytest.fixture(scope="module")
def undecoded():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_DECODE_INPUT_REQUEST", "false")  # as TorchServe sets it for decode_input_request=false
        yield


@given(st.lists(st.tuples(texts, st.sampled_from([200, 409, 503]), phrases, headers, st.binary(max_size=99)), max_size=4))
def test_responses_are_written_as_torchserve_writes_them(rows):
    context = Context("two", "", {}, len(rows), None, KNOWN_RELEASE)
    context.request_processor = [RequestProcessor({}) for _ in rows]
    for i, (_, status, phrase, more, _) in enumerate(rows):
        context.set_response_content_type(i, "application/json")
        for name, value in more.items():
            context.set_response_header(i, name, value)
        if status != 200:
            context.set_response_status(status, phrase, i)
    ids, bodies = {i: row[0] for i, row in enumerate(rows)}, [row[-1] for row in rows]
    expected = theirs.create_predict_response(bodies, ids, "Prediction success", 200, context)
    assert encode_responses(bodies, ids, "Prediction success", context) == expected


class Worker:
    """TorchServe's modules in a worker, as far as `install` touches them."""

    def __init__(self, monkeypatch, release):
        self.protocol, self.service = ModuleType("ts.protocol.otf_message_handler"), ModuleType("ts.service")
        torchserve = ModuleType("ts")
        torchserve.__version__ = release
        self.protocol._retrieve_buffer = self.protocol._retrieve_inference_msg = None
        self.protocol.create_predict_response = self.service.create_predict_response = theirs.create_predict_response
        for module in (torchserve, self.protocol, self.service):
            monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(("release", "rank", "replaced"), [(KNOWN_RELEASE, "0", True), ("0.13.0", "0", False), (KNOWN_RELEASE, "1", False)])
def test_only_a_worker_of_the_release_that_is_known_is_changed(monkeypatch, release, rank, replaced):
    monkeypatch.setenv("LOCAL_RANK", rank)
    worker = Worker(monkeypatch, release)
    install()
    assert (worker.protocol._retrieve_buffer is not None) is replaced
    assert (worker.protocol._retrieve_inference_msg is not None) is replaced
    assert (worker.service.create_predict_response is not theirs.create_predict_response) is replaced


def test_a_failure_of_the_worker_is_written_by_torchserve(monkeypatch):
    worker = Worker(monkeypatch, KNOWN_RELEASE)
    install()
    failed = worker.service.create_predict_response(None, {0: "id"}, "Prediction failed", 503)
    assert failed == theirs.create_predict_response(None, {0: "id"}, "Prediction failed", 503)


def test_without_torchserve_nothing_is_replaced(monkeypatch):
    monkeypatch.delitem(sys.modules, "ts.protocol.otf_message_handler", raising=False)
    install()

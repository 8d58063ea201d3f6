"""The buffered reader returns the bytes that were sent, however the network cut them, and ends the worker when TorchServe is gone."""

import socket
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.torchserve.socket_reader import KNOWN_RELEASE, SocketReader, install


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8), st.data())
def test_every_byte_arrives_once_and_in_order(pieces, data):
    sent, read, reader = b"".join(pieces), b"", SocketReader()
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
        assert SocketReader().read(ours, 70_000) == b"x" * 70_000


def test_a_closed_connection_ends_the_worker():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"half")
        theirs.close()
        with pytest.raises(SystemExit):
            SocketReader().read(ours, 5)


@pytest.mark.parametrize(("release", "replaced"), [(KNOWN_RELEASE, True), ("0.13.0", False)])
def test_only_the_reader_of_the_release_that_is_known_is_replaced(monkeypatch, release, replaced):
    torchserve, protocol = ModuleType("ts"), ModuleType("ts.protocol.otf_message_handler")
    torchserve.__version__, protocol._retrieve_buffer = release, None
    monkeypatch.setitem(sys.modules, "ts", torchserve)
    monkeypatch.setitem(sys.modules, protocol.__name__, protocol)
    install()
    assert (protocol._retrieve_buffer is not None) is replaced


def test_without_torchserve_nothing_is_replaced(monkeypatch):
    monkeypatch.delitem(sys.modules, "ts.protocol.otf_message_handler", raising=False)
    install()

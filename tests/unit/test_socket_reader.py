"""Reading through a buffer gives the bytes that were sent, however they were cut on the way."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.torchserve.socket_reader import Buffer


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8), st.data())
def test_every_byte_arrives_once_and_in_order(pieces, data):
    sent, read, buffer = b"".join(pieces), b"", Buffer()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for piece in pieces:
            theirs.sendall(piece)
        while len(read) < len(sent):
            length = data.draw(st.integers(0, len(sent) - len(read)))
            part = buffer.read(ours, length)
            assert len(part) == length
            read += part
            if length == 0:
                read += buffer.read(ours, 1)
    assert read == sent


def test_more_than_one_piece_is_waited_for():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 70_000)
        assert Buffer().read(ours, 70_000) == b"x" * 70_000


def test_a_host_that_is_gone_ends_the_worker():
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"half")
        theirs.close()
        with pytest.raises(SystemExit):
            Buffer().read(ours, 5)

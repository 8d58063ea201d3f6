"""Threads, tasks, cancellation, tokens and connections."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import httpx
import pytest

import cellstate
from cellstate import AsyncClient, Client, RetryPolicy
from tests.support.clients import POLICY


def test_calls_of_one_stream_from_several_threads_run_one_after_the_other(host, two):
    with httpx.Client(transport=host.transport) as http:
        stream = Client("http://cellstate.test", policy=POLICY, http=http).stream("two", "a", position=0)
        threads = [threading.Thread(target=stream.step, args=(two.sequence(1),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stream.position == 8
    assert [session["step"] for session in host.sessions] == list(range(8))


def test_tasks_of_one_stream_run_one_after_the_other(host, two):
    async def run():
        async with httpx.AsyncClient(transport=host.transport) as http:
            stream = AsyncClient("http://cellstate.test", policy=POLICY, http=http).stream("two", "a")
            await asyncio.gather(*(stream.step(two.sequence(1)) for _ in range(8)))
            return stream.position

    assert asyncio.run(run()) == 8


def test_a_cancelled_step_can_be_made_again(host, two):
    applied = asyncio.Event()

    async def answer(request):
        response = host(request)
        if not applied.is_set():
            applied.set()
            await asyncio.Event().wait()  # applied, and never answered
        return response

    async def run():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            stream = AsyncClient("http://cellstate.test", policy=POLICY, http=http).stream("two", "a", position=0)
            task = asyncio.create_task(stream.step(two.sequence(2)))
            await applied.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert stream.position == 0
            return await stream.step(two.sequence(2)), stream.position

    result, position = asyncio.run(run())
    assert (result.session.replayed, position) == (True, 2)


def test_a_key_that_is_replaced_is_read_again(host, two, tmp_path):
    keys = tmp_path / "key"
    keys.write_text("first\n")
    host.token = "first"
    with httpx.Client(transport=host.transport) as http, Client("http://cellstate.test", keys, policy=POLICY, http=http) as client:
        stream = client.stream("two", "a", position=0)
        stream.step(two.sequence(1))
        host.token = "second"
        keys.write_text("second\n")
        assert stream.step(two.sequence(1)).session.step == 2
        assert not http.is_closed
    assert http.is_closed


@pytest.mark.parametrize(
    ("url", "said"),
    [("ftp://cellstate.test", "UnsupportedProtocol"), ("localhost:8080", "UnsupportedProtocol"), ("http://a:b", "InvalidURL")],
)
def test_a_url_that_is_none_is_an_error_at_once(url, said):
    with Client(url) as client, pytest.raises(cellstate.ConnectionFailed, match=said):
        client.predict("two", [[1.0]])

    async def ask():
        async with AsyncClient(url) as client:
            await client.predict("two", [[1.0]])

    with pytest.raises(cellstate.ConnectionFailed, match=said):
        asyncio.run(ask())


def test_an_answer_that_breaks_off_is_asked_for_again():
    """A connection that ends in the middle of a body, whatever announced its length."""
    good = b'{"prediction":[1.0],"model":{"name":"two","version":"1.0"}}'
    replies = [b"Content-Length: %d\r\n\r\n" % len(good) + good[:20], b"Transfer-Encoding: chunked\r\n\r\n3b\r\n" + good[:9]]
    replies.append(b"Content-Length: %d\r\n\r\n" % len(good) + good)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for reply in replies:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + reply)

        thread = threading.Thread(target=serve)
        thread.start()
        retries = []
        policy = RetryPolicy(deadline=10.0, first_pause=0.0, on_retry=retries.append)
        with Client(f"http://127.0.0.1:{server.getsockname()[1]}/", policy=policy) as client:
            assert client.predict("two", [[1.0]]).prediction.tolist() == [1.0]
        thread.join()
    assert [type(retry.cause) for retry in retries] == [cellstate.ConnectionFailed] * 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_answer_that_trickles_in_ends_at_the_deadline(kind):
    """Each part arrives within the timeout, and the whole of it never."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url, policy = f"http://127.0.0.1:{server.getsockname()[1]}", RetryPolicy(deadline=0.3, timeout=0.3)

        def serve():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.02)

        def ask():
            with Client(url, policy=policy) as client:
                client.predict("two", [[1.0]])

        async def ask_async():
            async with AsyncClient(url, policy=policy) as client:
                await client.predict("two", [[1.0]])

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(cellstate.DeadlineExceeded, match="not complete after"):
            ask() if kind is Client else asyncio.run(ask_async())
        thread.join()


def test_a_server_may_be_below_a_path():
    paths = []

    def answer(request):
        paths.append(request.url.path)
        return httpx.Response(200, json={"prediction": [1.0]})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        Client("http://cellstate.test/team/a/", policy=POLICY, http=http).predict("two/1.0", [[1.0]])
    assert paths == ["/team/a/predictions/two/1.0"]


def test_a_certificate_that_is_not_trusted_is_an_error_at_once():
    def answer(request):
        try:
            try:
                raise ssl.SSLCertVerificationError("self-signed certificate")
            except ssl.SSLError as e:
                raise OSError from e
        except OSError as e:
            raise httpx.ConnectError("certificate verify failed: self-signed certificate") from e

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = Client("https://cellstate.test", policy=POLICY, http=http)
        with pytest.raises(cellstate.ConnectionFailed, match="self-signed certificate"):
            client.predict("two", [[1.0]])


def test_nobody_listens_until_the_deadline():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        impatient = RetryPolicy(deadline=0.05, first_pause=0.0)
        with Client(url, policy=impatient) as client, pytest.raises(cellstate.DeadlineExceeded, match="ConnectError"):
            client.predict("two", [[1.0]])


def test_an_answer_for_another_session_is_unexpected():
    def answer(request):
        return httpx.Response(200, json={"prediction": [1.0], "session": {"id": "b", "step": 1}})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = Client("http://cellstate.test", policy=POLICY, http=http)
        with pytest.raises(cellstate.UnexpectedReply, match="expected an answer for session a, got one for b"):
            client.stream("two", "a", position=0).step([[1.0]])


@pytest.mark.parametrize("session", [{}, 7, {"id": "a", "step": 1, "expires_at": "tomorrow"}])
def test_a_session_that_is_none_is_unexpected(session):
    with pytest.raises(cellstate.UnexpectedReply):
        cellstate.Result({"session": session}).session  # noqa: B018

"""The management API as the launcher asks it: what an answer, an error and silence of TorchServe mean."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

import pytest

from host.archives import Archive
from host.ports import HostError
from host.torchserve.management import NO_ANSWER, Management, ask, failure

ARCHIVE = Archive(Path("one.mar"), {"name": "one", "version": "1.0", "inputs": {"features": ["load"]}, "streaming": {"possible": True}})


class Api(ThreadingHTTPServer):
    """Answers every request with `status` and `document`, which may be a function of the path, and remembers what was asked.

    Management is asked at a Unix socket.
    """

    def __init__(self, path=None):
        self.address_family = socket.AF_UNIX if path else socket.AF_INET
        super().__init__(str(path) if path else ("127.0.0.1", 0), Handler)
        self.status, self.document, self.asked = 200, [{}], []

    def server_bind(self):
        TCPServer.server_bind(self)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path))
        document = self.server.document
        body = json.dumps(document(self.path) if callable(document) else document).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(path=None):
    with Api(path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api():
    with serving() as server:
        yield server


@pytest.fixture
def managed(tmp_path):
    with serving(tmp_path / "management.sock") as server:
        yield server


@pytest.fixture
def management(managed, tmp_path):
    return Management(tmp_path / "management.sock", {})


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, {}, None),
        (503, {"error": {"code": "store_unavailable"}}, "store_unavailable"),
        (400, {"code": 400, "type": "BadRequestException"}, "status 400"),
        (500, [], "status 500"),
    ],
)
def test_a_failure_is_told_by_its_code_or_its_status(api, status, document, expected):
    api.status, api.document = status, document
    assert failure(api.url, "one/1.0", {"inputs": [[0.0]]}, {}) == expected
    assert api.asked[0][:2] == ("POST", "/predictions/one/1.0")


def test_silence_is_no_answer():
    assert failure("http://127.0.0.1:1", "one", {}, {}) == NO_ANSWER


@pytest.mark.parametrize(("statuses", "ready"), [(["READY"], True), (["READY", "UNLOADING"], False), ([], True)])
def test_a_model_is_ready_when_all_its_workers_are_and_it_answers(api, managed, management, statuses, ready):
    managed.document = [{"workers": [{"status": status} for status in statuses]}]
    assert management.is_ready(api.url, ARCHIVE) is ready


@pytest.mark.parametrize(("statuses", "some"), [(["READY", "UNLOADING"], True), (["UNLOADING"], False), ([], False)])
def test_one_ready_worker_is_enough_to_be_alive(managed, management, statuses, some):
    managed.document = [{"workers": [{"status": status} for status in statuses]}]
    assert management.has_ready_worker("one") is some


@pytest.mark.parametrize("document", [[], {}, [{"jobQueueStatus": {}}], "no"])
def test_an_answer_that_cannot_be_read_is_neither_ready_nor_an_empty_queue(api, managed, management, document):
    managed.document = document
    assert not management.is_ready(api.url, ARCHIVE)
    assert not management.queue_is_empty("one")
    with pytest.raises(HostError, match="did not describe one"):
        management.has_ready_worker("one")
    with pytest.raises(HostError, match=r"did not (describe|restart the workers of) one"):
        management.restart_workers("one")


def test_workers_are_restarted_as_many_as_there_should_be(managed, management):
    managed.document = [{"minWorkers": 3}]
    management.restart_workers("one/1.0")
    puts = [path for method, path in managed.asked if method == "PUT"]
    assert puts == [f"/models/one/1.0?min_worker={count}&max_worker={count}&synchronous=true" for count in (0, 3)]


def test_a_default_that_is_refused_is_named(managed, management):
    managed.status = 404
    with pytest.raises(HostError, match=r"TorchServe did not make one/1\.0 the default version \(HTTPStatusError\)"):
        management.set_default(ARCHIVE)


PAGES = {
    "/models": {"models": [{"modelName": "one"}], "nextPageToken": "100"},
    "/models?next_page_token=100": {"models": [{"modelName": "two"}]},
    "/models/one/all": [{"modelName": "one", "modelVersion": "1.0"}, {"modelName": "one", "modelVersion": "2.0"}],
    "/models/two/all": [{"modelName": "two", "modelVersion": "1.0"}],
}


def test_all_versions_are_listed_over_all_pages(managed, management):
    managed.document = PAGES.get
    assert management.versions() == ["one/1.0", "one/2.0", "two/1.0"]


@pytest.mark.parametrize("document", [[], {"models": [{}]}, "no"])
def test_a_list_that_cannot_be_read_is_an_error(managed, management, document):
    managed.document = document
    with pytest.raises(HostError, match="TorchServe did not list its models"):
        management.versions()


def test_a_version_that_is_not_registered_or_not_ended_is_an_error(managed, management):
    managed.status, managed.document = 500, {"message": "Failed to start\nworkers"}
    with pytest.raises(HostError, match=r"^TorchServe did not register one/1\.0: Failed to start workers$"):
        management.register(ARCHIVE, 2)
    assert managed.asked[-1] == ("POST", "/models?url=one.mar&model_name=one&initial_workers=2&synchronous=true")
    with pytest.raises(HostError, match=r"did not unregister one/1\.0"):
        management.unregister("one/1.0")


def test_an_answer_to_a_request_is_an_object(api):
    api.document = {"prediction": [1.0]}
    assert ask(api.url, "one", {}, {}) == {"prediction": [1.0]}
    for status, document in ((503, {}), (200, 3)):
        api.status, api.document = status, document
        with pytest.raises(HostError, match="did not answer a request to one"):
            ask(api.url, "one", {}, {})

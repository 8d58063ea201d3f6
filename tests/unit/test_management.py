"""The management API as the launcher asks it: what an answer, an error and silence of TorchServe mean."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from host.archives import Archive
from host.ports import HostError
from host.torchserve.management import NO_ANSWER, Management, failure

ARCHIVE = Archive(Path("one.mar"), {"name": "one", "version": "1.0", "inputs": {"features": ["load"]}, "streaming": {"possible": True}})


class Api(ThreadingHTTPServer):
    """Answers every request with `status` and `document`, and remembers what was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.document, self.asked = 200, [{}], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        body = json.dumps(self.server.document).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *arguments):
        pass


@pytest.fixture
def api():
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def management(api, tmp_path):
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "predict"}, "management": {"key": "manage"}}))
    return Management(api.url, tmp_path / "key_file.json")


def test_tokens_outlive_their_file(management, tmp_path):
    assert management.token("inference") == "predict"
    (tmp_path / "key_file.json").unlink()
    assert management.headers("management") == {"Authorization": "Bearer manage"}


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, {}, None),
        (503, {"error": {"code": "store_unavailable"}}, "store_unavailable"),
        (400, {"code": 400, "type": "InvalidKeyException"}, "status 400"),
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
def test_a_model_is_ready_when_all_its_workers_are_and_it_answers(api, management, statuses, ready):
    api.document = [{"workers": [{"status": status} for status in statuses]}]
    assert management.is_ready(api.url, ARCHIVE) is ready


@pytest.mark.parametrize(("statuses", "some"), [(["READY", "UNLOADING"], True), (["UNLOADING"], False), ([], False)])
def test_one_ready_worker_is_enough_to_be_alive(api, management, statuses, some):
    api.document = [{"workers": [{"status": status} for status in statuses]}]
    assert management.has_ready_worker("one") is some


@pytest.mark.parametrize("document", [[], {}, [{"jobQueueStatus": {}}], "no"])
def test_an_answer_that_cannot_be_read_is_neither_ready_nor_an_empty_queue(api, management, document):
    api.document = document
    assert not management.is_ready(api.url, ARCHIVE)
    assert not management.queue_is_empty("one")
    with pytest.raises(HostError, match="did not describe one"):
        management.has_ready_worker("one")
    with pytest.raises(HostError, match=r"did not (describe|restart the workers of) one"):
        management.restart_workers("one")


def test_workers_are_restarted_as_many_as_there_should_be(api, management):
    api.document = [{"minWorkers": 3}]
    management.restart_workers("one/1.0")
    puts = [path for method, path, _ in api.asked if method == "PUT"]
    assert puts == [f"/models/one/1.0?min_worker={count}&max_worker={count}&synchronous=true" for count in (0, 3)]
    assert {token for *_, token in api.asked} == {"Bearer manage"}


def test_a_default_that_is_refused_is_named(api, management):
    api.status = 404
    with pytest.raises(HostError, match=r"TorchServe did not make one/1\.0 the default version \(HTTPStatusError\)"):
        management.set_default(ARCHIVE)

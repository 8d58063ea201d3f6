"""`python -m host keys` on its file, and the metrics port in front of a TorchServe that a small server stands for."""

import json
import socket
import stat
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer

import httpx
import pytest

from handlers.keys import OPERATE, Caller, KeyRing, dump, generate, parse
from host.__main__ import main
from host.keys import make_first
from host.metrics import MetricsServer
from host.ports import HostError, is_loopback


@pytest.fixture
def keys(tmp_path, capsys):
    """Run a command; its exit code, output and errors."""

    def run(*arguments):
        code = main(["keys", *arguments, "--folder", str(tmp_path)])
        return code, *capsys.readouterr()

    return run


def entries(tmp_path):
    return {key.caller.name: key for key in parse((tmp_path / "keys.json").read_bytes())}


def test_a_key_that_is_added_is_printed_once_and_works(tmp_path, keys):
    code, text, _ = keys("add", "user", "--tenant", "acme")
    assert code == 0
    caller = KeyRing(tmp_path / "keys.json").authenticate({"x-api-key": text.strip()}, "predict")
    assert caller == Caller("user", "acme", frozenset({"predict"}))
    assert text.strip() not in "".join(keys("list")[1:] + keys("list", "--json")[1:])
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_scopes_and_expiry_are_as_asked(tmp_path, keys):
    keys("add", "both", "--scope", "predict", "--scope", "operate", "--expires", "30d")
    keys("add", "dated", "--expires", "2030-01-02")
    found = entries(tmp_path)
    assert found["both"].caller.scopes == {"predict", "operate"}
    assert found["both"].expires_at == pytest.approx(time.time() + 30 * 86_400, abs=60)
    assert found["dated"].document()["expires_at"] == "2030-01-02T00:00:00+00:00"


def test_a_list_names_every_key(keys):
    keys("add", "one")
    keys("add", "two", "--scope", "operate")
    code, table, _ = keys("list")
    assert (code, [line.split()[0] for line in table.splitlines()]) == (0, ["name", "one", "two"])
    assert [entry["scopes"] for entry in json.loads(keys("list", "--json")[1])] == [["predict"], ["operate"]]


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_key_is_revoked_by_its_name_or_id(tmp_path, keys, by):
    keys("add", "one")
    keys("add", "two")
    assert keys("revoke", {"name": "one", "id": entries(tmp_path)["one"].id}[by])[0] == 0
    assert list(entries(tmp_path)) == ["two"]


def test_mistakes_are_exit_2_and_change_nothing(tmp_path, keys):
    keys("add", "one")
    before = (tmp_path / "keys.json").read_bytes()
    assert keys("add", "one")[0] == keys("revoke", "nobody")[0] == 2
    for arguments in (["add", "a/b"], ["add", "x", "--scope", "all"], ["add", "x", "--expires", "soon"]):
        with pytest.raises(SystemExit):
            keys(*arguments)
    assert (tmp_path / "keys.json").read_bytes() == before


def test_a_file_that_cannot_be_read_is_left_as_it_is(tmp_path, keys):
    assert keys("list")[0] == 2
    (tmp_path / "keys.json").write_text("{")
    for arguments in (["list"], ["add", "x"], ["revoke", "x"]):
        code, _, said = keys(*arguments)
        assert (code, "cannot be read" in said) == (2, True)
    assert (tmp_path / "keys.json").read_text() == "{"


def test_keys_that_are_added_at_once_are_all_kept(tmp_path):
    threads = [threading.Thread(target=main, args=(["keys", "add", f"k{n}", "--folder", str(tmp_path)],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(tmp_path)) == 8


def test_the_first_key_is_made_once(tmp_path):
    path, text_file = tmp_path / "keys.json", tmp_path / "key"
    assert make_first(path, text_file)
    text = text_file.read_text().strip()
    assert KeyRing(path).authenticate({"x-api-key": text}, OPERATE).name == "first"
    assert not make_first(path, text_file)
    assert text_file.read_text().strip() == text


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"metrics of {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class UnixServer(HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        TCPServer.server_bind(self)

    def get_request(self):
        return self.socket.accept()[0], ("", 0)


@contextmanager
def torchserve(path):
    with UnixServer(str(path), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()


@contextmanager
def metrics_port(path, ring=None):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = MetricsServer(("127.0.0.1", port), path, ring)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()


def test_metrics_are_passed_on_to_a_key_that_may_operate(tmp_path):
    callers = (Caller("operator", scopes=frozenset({OPERATE})), Caller("user", scopes=frozenset({"predict"})), Caller("stranger", "acme"))
    made = [generate(caller, 0.0) for caller in callers]
    operator, user, stranger = (text for text, _ in made)
    (tmp_path / "keys.json").write_bytes(dump(key for _, key in made))
    with torchserve(tmp_path / "m.sock"), metrics_port(tmp_path / "m.sock", KeyRing(tmp_path / "keys.json")) as url:
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers={"X-API-Key": user}).status_code == 403
        assert httpx.get(f"{url}/metrics?name[]=a", headers={"X-API-Key": operator}).text == "metrics of /metrics?name[]=a\n"
        assert httpx.get(f"{url}/metrics", headers={"X-API-Key": stranger}).status_code == 403
        assert httpx.get(f"{url}/other", headers={"X-API-Key": operator}).status_code == 404


def test_metrics_without_torchserve_are_503_and_without_keys_anybodys(tmp_path):
    with metrics_port(tmp_path / "m.sock") as url:
        assert httpx.get(f"{url}/metrics").status_code == 503
        with torchserve(tmp_path / "m.sock"):
            assert httpx.get(f"{url}/metrics").status_code == 200


def test_a_metrics_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostError, match=f"metrics port {taken.getsockname()[1]}"):
        MetricsServer(taken.getsockname(), tmp_path / "m.sock", None)


@pytest.mark.parametrize(("address", "expected"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("192.0.2.1", False)])
def test_loopback_is_told_from_other_addresses(address, expected):
    assert is_loopback(address) is expected

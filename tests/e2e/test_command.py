"""`python -m host`: one command from an archive to a served model, and back to nothing."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

import host
from host.folder import processes, stop
from tests.conftest import build_runnable
from tests.support.http_client import until
from tests.support.served_models import Model, assert_close

pytestmark = pytest.mark.e2e
ROOT = Path(host.__file__).resolve().parent.parent
DRAIN = 20.0  # seconds, the command's default


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "host", *map(str, arguments)]


def printed(*arguments: str | Path) -> str:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def health(folder: Path) -> int:
    return subprocess.run(command("health", "--folder", folder), cwd=ROOT, capture_output=True, timeout=60, check=False).returncode


class Running:
    """The command with its output gathered, line by line."""

    def __init__(self, folder: Path, store: Path, *options: str) -> None:
        self.folder, self.lines = folder, [""]
        self.process = subprocess.Popen(
            command(
                "serve",
                *([] if "--log-stdout" in options else ["--no-log-stdout"]),
                "--port",
                "0",
                "--metrics-port",
                "0",
                "--folder",
                folder,
                "--store",
                store,
                *options,
            ),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def said(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, "".join(self.lines), re.MULTILINE)

    def wait(self, seconds: float) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        if self.process.stdout is not None and not self._reader.is_alive():  # closing waits for a reader
            self.process.stdout.close()
        return code

    def end(self) -> None:
        """For a test that failed: end the command and what is left of its server."""
        if self.process.poll() is None:
            self.process.kill()
            stop(self.folder)
            self.wait(10)


@pytest.fixture
def running(lone_store: Path, tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path / "run", lone_store)
    try:
        yield started
    finally:
        started.end()


def test_serve_says_where_it_is_answers_tells_its_health_and_stops_on_an_interrupt(running: Running, zoo: dict[str, Model]) -> None:
    assert health(running.folder.parent) == 2, "there is no server in that folder"
    url = until(lambda: running.process.poll() is not None or running.said(r"^ready at (\S+)$"), "ready")
    assert isinstance(url, re.Match), "".join(running.lines)
    assert running.said(r"^keys +.+; a key for every request: (.+)$")[1] == str(running.folder.resolve() / "key")
    key = (running.folder / "key").read_text().strip()
    assert key not in "".join(running.lines)
    assert [entry["name"] for entry in json.loads(printed("keys", "list", "--json", "--folder", running.folder))] == ["first"]
    inputs = zoo["one"].inputs(7, seed=1)
    answer = httpx.post(f"{url[1]}/predictions/one", json={"inputs": inputs}, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    assert_close(answer.json()["prediction"], zoo["one"].whole(inputs), "prediction")
    assert health(running.folder) == 0
    began = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    assert running.wait(DRAIN + 20) == 0, "".join(running.lines)
    assert time.monotonic() - began < DRAIN
    assert running.said(r"^stopped$")
    assert health(running.folder) == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(url[1])


def test_serve_needs_no_file_any_more_once_it_runs(lone_store: Path, tmp_path: Path) -> None:
    """Archives that are added or deleted, and files of the folder that are deleted, keep nobody from asking, draining and stopping."""
    store = tmp_path / "store"
    shutil.copytree(lone_store, store)
    running = Running(tmp_path / "run", store)
    try:
        until(lambda: running.process.poll() is not None or running.said(r"^ready at "), "ready")
        (store / "added.mar").write_bytes(b"half copied")
        assert health(running.folder) == 0, "the archive that was added is not served"
        for path in [*store.iterdir(), *(path for path in running.folder.iterdir() if path.is_file())]:
            path.unlink()
        assert health(running.folder) == 2
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(DRAIN + 20) == 0, "".join(running.lines)
        assert running.said(r"^stopped$")
        assert processes(running.folder) == []
    finally:
        running.end()


GONE = [("SIGTERM", name) for name in ("keys.json", "gate", "models", "")]
GONE += [("stop", name) for name in ("serve.json", "")]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize(("how", "gone"), GONE, ids=[f"{name or 'the folder'}, {how}" for how, name in GONE])
def test_whatever_of_the_folder_is_gone_what_was_started_is_ended(lone_store: Path, tmp_path: Path, how: str, gone: str) -> None:
    running = Running(tmp_path / "run", lone_store, "--drain", "3")
    try:
        _ended_without(running, how, gone)
    finally:
        running.end()


def _ended_without(running: Running, how: str, gone: str) -> None:
    url = until(lambda: running.process.poll() is not None or running.said(r"^ready at (\S+)$"), "ready")
    assert isinstance(url, re.Match), "".join(running.lines)
    found = processes(running.folder)
    remove(running.folder / gone)
    if how == "stop":
        assert printed("stop", "--drain", "3", "--folder", running.folder) == "stopped"
    else:
        running.process.send_signal(signal.SIGTERM)
    code = running.wait(60)
    assert running.said(r"^stopped"), "".join(running.lines)
    if gone not in ("tmp", ""):  # management is a socket in the folder, and workers are reached through those in `tmp`
        assert how == "stop" or code == 0, "it was drained"
    assert psutil.wait_procs(found, 10)[1] == []
    assert processes(running.folder) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(url[1])


@pytest.fixture(scope="module")
def versions_store(checkpoints: dict[str, Path], zoo: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1.9 and 1.10 of one model, with different weights, and what is no archive."""
    store = tmp_path_factory.mktemp("versions-store")
    for version, source in (("1.10", "one"), ("1.9", "projected")):
        checkpoint = tmp_path_factory.mktemp(version) / "one"
        shutil.copytree(checkpoints[source], checkpoint)
        card = json.loads((checkpoint / "model.json").read_text())
        (checkpoint / "model.json").write_text(json.dumps(card | {"name": "one", "version": version}))
        built = build_runnable(checkpoint, tmp_path_factory.mktemp("built"))
        shutil.copy(built.archive, store / f"one-{version}.mar")
    (store / "half.mar").write_bytes((store / "one-1.9.mar").read_bytes()[:1_000])
    (store / "empty.mar").touch()
    (store / "folder.mar").mkdir()
    return store


def test_versions_are_served_side_by_side_with_the_options_of_the_command_and_stop_drains(
    versions_store: Path, zoo: dict[str, Model], tmp_path: Path
) -> None:
    running = Running(tmp_path / "run", versions_store, "--workers", "2", "--batch-size", "8", "--max-batch-delay", "3", "--queue", "50")
    try:
        url = until(lambda: running.process.poll() is not None or running.said(r"^ready at (\S+)$"), "ready")
        assert isinstance(url, re.Match), "".join(running.lines)
        for file, why in (("half", "it is cut off"), ("empty", "it is empty"), ("folder", "it is a folder")):
            assert running.said(rf"left out: .*{file}\.mar cannot be read as an archive \({why}\)")
        headers = {"Authorization": f"Bearer {(running.folder / 'key').read_text().strip()}"}
        inputs = zoo["one"].inputs(5, seed=2)
        for path, model in (("one", "one"), ("one/1.10", "one"), ("one/1.9", "projected")):
            answer = httpx.post(f"{url[1]}/predictions/{path}", json={"inputs": inputs}, headers=headers, timeout=30)
            assert_close(answer.json()["prediction"], zoo[model].whole(inputs), path)
        status = json.loads(printed("status", "--json", "--folder", running.folder))
        assert status["url"] == url[1]
        shown = [
            [model[name] for name in ("model", "version", "default", "health", "workers", "queue", "batch")] for model in status["models"]
        ]
        assert shown == [["one", "1.9", False, "ok", 2, 50, 8], ["one", "1.10", True, "ok", 2, 50, 8]]
        assert re.search(r"^one +1\.10 +True +ok ", printed("status", "--folder", running.folder), re.MULTILINE)
        assert printed("stop", "--folder", running.folder) == "stopped"
        assert running.wait(10) == 0, "serve drained and ended as on SIGTERM"
        assert running.said(r"^stopped$")
        assert printed("stop", "--folder", running.folder) == "not running"
    finally:
        running.end()


def test_strict_does_not_start_with_an_archive_that_cannot_be_read(versions_store: Path, tmp_path: Path) -> None:
    arguments = command("serve", "--strict", "--folder", tmp_path / "run", "--store", versions_store)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "empty.mar cannot be read as an archive (it is empty)" in done.stderr


def test_stop_drains_a_server_whose_command_was_killed_and_now_does_not(running: Running, lone_store: Path) -> None:
    until(lambda: running.process.poll() is not None or running.said(r"^ready at "), "ready")
    running.process.kill()
    running.wait(10)
    assert processes(running.folder)
    assert printed("stop", "--folder", running.folder) == "stopped"
    assert (running.folder / "gate").stat().st_size == 1, "it was drained"
    assert processes(running.folder) == []
    again = Running(running.folder, lone_store)
    try:
        until(lambda: again.process.poll() is not None or again.said(r"^ready at "), "ready")
        assert printed("stop", "--now", "--folder", running.folder) == "stopped"
        assert (running.folder / "gate").stat().st_size == 0, "it was not drained"
        assert processes(running.folder) == []
        again.wait(10)
    finally:
        again.end()


@pytest.mark.parametrize("option", ["--workers", "--batch-size", "--max-batch-delay", "--queue"])
def test_an_option_that_is_no_number_from_1_up_is_refused(option: str) -> None:
    done = subprocess.run(command("serve", option, "0"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "expected a number from 1 up, got '0'" in done.stderr


def test_files_of_the_folder_are_their_owners_alone(running: Running) -> None:
    until(lambda: running.process.poll() is not None or running.said(r"^ready at "), "ready")
    open_to_others = [path for path in running.folder.rglob("*") if not path.is_symlink() and path.lstat().st_mode & 0o077]
    assert [path for path in open_to_others if not path.is_socket()] == []


def test_a_store_without_archives_is_named_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        command("serve", "--folder", tmp_path / "run", "--store", tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "holds no .mar archive" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_java_that_does_not_come_up_is_told_with_its_last_lines(lone_store: Path, tmp_path: Path) -> None:
    arguments = command(
        "serve", "--no-log-stdout", "--port", "0", "--metrics-port", "0", "--folder", tmp_path / "run", "--store", lone_store
    )
    environment = os.environ | {"JDK_JAVA_OPTIONS": "-Xmx1x"}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "host: TorchServe ended by itself\n" in done.stderr
    assert "Invalid maximum heap size: -Xmx1x" in done.stderr
    assert processes(tmp_path / "run") == []


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_in_a_container_standard_output_is_one_json_object_a_line_and_a_normal_start_has_no_warning(
    lone_store: Path, zoo: dict[str, Model], tmp_path: Path
) -> None:
    running = Running(tmp_path / "run", lone_store, "--log-stdout", "--log-format", "json", "--access-log", "errors")
    try:
        url = until(lambda: running.process.poll() is not None or running.said(r'"ready at (http[^\\]+)\\n'), "ready")
        assert isinstance(url, re.Match), "".join(running.lines)
        assert {json.loads(line)["level"] for line in running.lines[1:]} == {"INFO"}
        headers = {"X-API-Key": (running.folder / "key").read_text().strip(), "traceparent": TRACE}
        answer = httpx.post(f"{url[1]}/predictions/one", json={"inputs": 3}, headers=headers, timeout=30)
        assert answer.status_code == 422
        until(lambda: running.said(TRACE), "the line of the request")
        assert httpx.post(f"{url[1]}/predictions/one", json={"inputs": zoo["one"].inputs(1, seed=1)}, timeout=30).status_code == 401
        until(lambda: running.said('"status": 401'), "the line of the refused request")
    finally:
        running.process.terminate()
        running.wait(DRAIN + 20)
        running.end()
    lines = [json.loads(line) for line in running.lines[1:]]
    [invalid, refused] = [line for line in lines if line["event"] == "request"]
    assert (invalid["key"], invalid["code"], invalid["traceparent"]) == ("first", "invalid_input", TRACE)
    assert re.fullmatch(r"[0-9a-f-]{36}", invalid["request_id"])
    assert (refused["key"], refused["code"]) == (None, "unauthenticated")
    assert [line["message"] for line in lines if line["event"] == "host"][-1] == "stopped"


def test_a_port_that_is_taken_is_named_in_one_line(lone_store: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for inference, metrics in ((port, 0), (0, port)):
            ports = ("--port", inference, "--metrics-port", metrics)
            arguments = ("serve", "--folder", tmp_path / "run", "--store", lone_store, *map(str, ports))
            done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2
            assert done.stderr == f"host: port {port} is taken: choose another, or 0 for a free one\n"


def test_a_server_that_is_stopped_while_it_starts_is_gone_soon(running: Running) -> None:
    until(lambda: (running.folder / "server.json").exists(), "a server that starts")
    running.process.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0, "".join(running.lines)
    assert running.said(r"^stopped before it was ready$")
    assert not psutil.pid_exists(json.loads((running.folder / "server.json").read_text())["pid"])

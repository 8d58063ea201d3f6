"""What the commands on a running server do when there is none, when its files are gone, and when a number belongs to a stranger."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

import host
from host.__main__ import main
from host.description import Description
from host.running import COMMAND, RunningServer, record_command, stop

ROOT = Path(host.__file__).resolve().parent.parent
SLEEPER = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]


@pytest.fixture
def sleeper(tmp_path):
    """A process that stands for one of a server's: it has the server's temporary folder in its environment."""
    environment = {"TEMP": str(tmp_path / "tmp")}
    with subprocess.Popen(SLEEPER, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def describe(folder, **changes):
    """Describe a server of one model that was started in the folder."""
    (folder / "models").mkdir()
    signature = {"name": "one", "version": "1.0", "inputs": {"features": ["load"]}, "streaming": {"possible": True}}
    with zipfile.ZipFile(folder / "models" / "one-1.0.mar", "w") as contents:
        contents.writestr("MAR-INF/MANIFEST.json", "{}")
        contents.writestr("signature.json", json.dumps(signature))
    document = {
        "url": "http://127.0.0.1:1",
        "management": str(folder / "management.sock"),
        "metrics": "",
        "headers": {},
        "sessions": "valkey://user:secret@host",
        "store": "",
        "options": {},
        "log": "",
        "pid": 1,
    }
    Description(**document | changes).write(folder)


@pytest.mark.parametrize("verb", ["status", "health"])
def test_a_folder_without_a_server_is_exit_2_and_named(tmp_path, capsys, verb):
    assert main([verb, "--folder", str(tmp_path)]) == 2
    assert f"no server was started in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pid", "said"), [(1, "TorchServe did not describe one (TransportError)"), (2**22, "has ended")], ids=["silent", "ended"]
)
def test_a_server_that_does_not_answer_is_not_healthy_and_has_no_status(tmp_path, capsys, pid, said):
    describe(tmp_path, pid=pid)
    assert main(["health", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "not healthy: one/1.0 (no answer)\n"
    assert main(["status", "--folder", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_without_a_process_there_is_nothing_to_stop(tmp_path, capsys):
    assert main(["stop", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "not running\n"


@pytest.mark.parametrize("now", [True, False])
def test_stop_ends_what_is_left_although_every_file_is_gone(tmp_path, sleeper, now):
    assert stop(tmp_path, 0.1, now)
    assert sleeper.wait(10) < 0


def test_a_command_is_asked_to_stop_by_itself(tmp_path, sleeper):
    process = psutil.Process(sleeper.pid)
    (tmp_path / COMMAND).write_text(json.dumps({"pid": process.pid, "started": process.create_time()}))
    assert stop(tmp_path, 0.1, now=False)
    assert sleeper.wait(10) < 0


PATIENT = """
import sys
from pathlib import Path
from host import running
running.GRACE = 1e6
print(running.stop(Path(sys.argv[1]), 0.1, now=False))
"""


def test_a_command_has_ended_although_its_parent_takes_no_note(tmp_path, sleeper):
    """Its parent is this test, which meanwhile waits for something else."""
    process = psutil.Process(sleeper.pid)
    (tmp_path / COMMAND).write_text(json.dumps({"pid": process.pid, "started": process.create_time()}))
    done = subprocess.run([sys.executable, "-c", PATIENT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"
    assert process.status() == psutil.STATUS_ZOMBIE


SERVE = """
import subprocess, sys
command, environment = [sys.executable, "-c", sys.argv[2]], {"TEMP": sys.argv[3]}
with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "words", [("host", "serve"), ("/usr/bin/cellstate", "serve"), ("pytest", "serve")], ids=["host", "cellstate", "other"]
)
def test_a_command_whose_record_is_gone_is_known_as_the_parent_of_its_server(tmp_path, words):
    """The words stand for its command line. A process that only happens to have started the server is no such command."""
    script = tmp_path / words[0].rpartition("/")[2]
    script.write_text(SERVE)
    arguments = [sys.executable, str(script), words[1], "import sys; print('up', flush=True); sys.stdin.read()", str(tmp_path / "tmp")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout.readline() == "up\n"
        try:
            assert stop(tmp_path, 0.1, now=False)
            if words[0] == "pytest":
                assert command.poll() is None
            else:
                command.wait(10)  # it has ended: its code went to whoever waited first
            assert not stop(tmp_path, 0.1, now=False)
        finally:
            command.kill()


def test_a_process_that_has_the_number_of_a_command_that_ended_is_left_alone(tmp_path):
    record_command(tmp_path)
    document = json.loads((tmp_path / COMMAND).read_text())
    (tmp_path / COMMAND).write_text(json.dumps(document | {"started": document["started"] - 100}))
    assert not stop(tmp_path, 0.1, now=False), "or this test would have ended itself"


def test_draining_from_outside_refuses_new_requests(tmp_path):
    describe(tmp_path)
    assert not RunningServer.of(tmp_path).drain(0.1), "nobody says that the queue is empty"
    assert (tmp_path / "gate").stat().st_size == 1

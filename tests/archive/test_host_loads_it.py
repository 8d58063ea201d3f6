"""The archive loaded as the host's worker loads it: its folder and the installed packages on the path, no source tree in sight."""

import os
import subprocess
import sys
from contextlib import closing

import orjson
import pytest

from handlers.stores.lmdb import EmbeddedStore
from tests.conftest import assert_close
from tests.support import eager
from tests.support.store_kinds import put

WORKER = """
import json, sys
folder, bodies = sys.argv[1], [body.encode() for body in sys.argv[2:]]
assert not any("/handlers" in path or path in ("", ".") for path in sys.path), sys.path
sys.path.insert(0, folder)

from ts.context import Context, RequestProcessor  # the host's own
from ts.utils.util import get_yaml_config, list_classes_from_module

manifest = json.load(open(folder + "/MAR-INF/MANIFEST.json"))
__import__(manifest["model"]["handler"])
module = sys.modules[manifest["model"]["handler"]]
assert module.__file__.startswith(folder), module.__file__
[handler] = list_classes_from_module(module)
config = get_yaml_config(folder + "/" + manifest["model"]["configFile"])
context = Context("two", folder, manifest, 8, None, "0.12.0", model_yaml_config=config)
worker = handler()
worker.initialize(context)
context.request_processor = [RequestProcessor({}) for _ in bodies]
replies = worker.handle([{"body": body} for body in bodies], context)
heads = [context.get_response_status(i) + (context.get_response_content_type(i),) for i in range(len(bodies))]
runtimes = sorted({"torch", "onnxruntime", "lmdb", "export"} & set(sys.modules))
print("RESULT", json.dumps([heads, [reply.decode() for reply in replies], runtimes]))
"""


def work(folder, *bodies, **environment):
    """Run one worker's life; its heads, replies, heavy modules, and all that it printed."""
    process = subprocess.run(
        [sys.executable, "-I", "-W", "error::UserWarning", "-c", WORKER, str(folder), *map(bytes.decode, bodies)],
        cwd=folder.parent,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = process.stdout.splitlines()
    results = [line.removeprefix("RESULT ") for line in lines if line.startswith("RESULT ")]
    assert len(results) == 1 or process.returncode, process.stderr
    return process, orjson.loads(results[0]) if results else None


@pytest.mark.parametrize("backend", ["onnxruntime", "torchscript"])
def test_a_worker_starts_from_the_archive_alone_and_answers_a_batch(two, tmp_path, backend):
    x = two.sequence(4)
    good = orjson.dumps({"inputs": x.tolist(), "return": ["prediction", "h_n"]})
    session = orjson.dumps({"inputs": x.tolist(), "session": {"id": "a", "step": 0}})
    process, (heads, replies, modules) = work(
        two.folder, good, b"{", session, CELLSTATE_STORE=f"lmdb://{tmp_path}/sessions", CELLSTATE_BACKEND=backend
    )
    json = "application/json"
    assert heads == [[200, None, json], [400, "Bad Request", json], [200, None, json]]
    one, bad, three = map(orjson.loads, replies)
    assert_close(one["prediction"], eager.run(two.model, x).prediction, "prediction out of the archive")
    assert_close(one["h_n"], eager.run(two.model, x).h_n, "h_n out of the archive")
    assert bad["error"]["code"] == "malformed_json"
    assert three["session"]["step"] == 4
    assert modules == sorted(["lmdb", "onnxruntime" if backend == "onnxruntime" else "torch"]), "one worker never loads two runtimes"
    assert "started model=two-1.0" in process.stdout


def test_a_second_worker_finds_the_first_ones_sessions(two, tmp_path):
    store = {"CELLSTATE_STORE": f"lmdb://{tmp_path}/sessions"}
    x = two.sequence(5)
    work(two.folder, orjson.dumps({"inputs": x[:3].tolist(), "session": {"id": "a", "step": 0}}), **store)
    _, (_, [reply], _) = work(two.folder, orjson.dumps({"inputs": x[3:].tolist(), "session": {"id": "a", "step": 3}}), **store)
    assert_close(orjson.loads(reply)["prediction"], eager.run(two.model, x).prediction, "prediction by the second worker")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CELLSTATE_MAX_STEP": "5"}, "unknown setting CELLSTATE_MAX_STEP"),
        ({"CELLSTATE_STORE": "elsewhere://"}, "store: expected memory://"),
    ],
    ids=["unknown setting", "unknown store"],
)
def test_a_worker_that_cannot_be_configured_refuses_and_its_log_says_why(two, environment, message):
    process, result = work(two.folder, b"{}", **environment)
    assert result is None
    assert process.returncode != 0
    assert f"refused_to_start {message}" in process.stdout + process.stderr


def reader_of(valkey):
    """The URL of a user who may read and not write."""
    with valkey.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "reader", "on", ">sesame", "~*", "&*", "+@read", "+@connection", "+info", "+eval", "+evalsha"
        )
    return f"valkey://reader:sesame@127.0.0.1:{valkey.port}/0"


def cut_off(folder):
    with closing(EmbeddedStore(str(folder), 1 << 30)) as store:
        store.commit_many([put(b"two/%d" % n, b"x" * 100_000) for n in range(100)])
    os.truncate(folder / "data.mdb", 100_000)
    return f"lmdb://{folder}"


@pytest.mark.parametrize("why", ["cannot be opened", "can only be read", "was cut off"])
def test_a_worker_starts_without_its_store_and_its_log_alone_says_why(two, tmp_path, valkey, why):
    x = two.sequence(2)
    store, place = {
        "cannot be opened": lambda: ("lmdb:///proc/nowhere", "/proc/nowhere"),
        "can only be read": lambda: (reader_of(valkey), f"valkey://127.0.0.1:{valkey.port}/0"),
        "was cut off": lambda: (cut_off(tmp_path), f"{tmp_path}: data.mdb is cut off"),
    }[why]()
    bodies = [orjson.dumps({"inputs": x.tolist()}), orjson.dumps({"inputs": x.tolist(), "session": {"id": "a", "step": 0}})]
    process, (heads, replies, _) = work(two.folder, *bodies, CELLSTATE_STORE=store)
    assert [status for status, *_ in heads] == [200, 503]
    error = orjson.loads(replies[1])["error"]
    assert (error["code"], error["retryable"]) == ("store_unavailable", True)
    assert place.partition(":")[0] not in error["message"]
    assert f"store_unavailable store {place}" in process.stdout
    assert "sesame" not in process.stdout + process.stderr


def test_the_secret_is_not_in_the_log(two):
    process, _ = work(two.folder, b"{}", CELLSTATE_STATE_KEY="swordfish", CELLSTATE_STORE="memory://")
    assert '"state_key": "***"' in process.stdout
    assert "swordfish" not in process.stdout + process.stderr


def test_no_model_of_the_archive_needs_the_source_tree(exported):
    for name in ("words", "projected-bidirectional", "step"):
        model = exported(name)
        x = model.sequence(3)
        _, (heads, [reply], _) = work(model.folder, orjson.dumps({"inputs": x.tolist()}), CELLSTATE_STORE="memory://")
        assert heads[0][0] == 200, reply
        assert_close(orjson.loads(reply)["prediction"], eager.run(model.model, x).prediction, f"prediction of {name}")

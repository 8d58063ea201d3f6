"""Nothing that serves can run what it reads: no pickle, no evaluation, no shell, neither in the source nor while it works."""

import ast
import base64
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from handlers.sessions import state

ROOT = Path(__file__).parents[2]
SERVED = sorted((ROOT / "handlers").rglob("*.py"))
FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "subprocess", "pty", "code", "runpy",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
FORBIDDEN_METHODS = {  # module, function: what unpickles, or runs, what it is given
    ("np", "load"), ("np", "fromfile"), ("np", "save"), ("numpy", "load"), ("torch", "load"), ("torch", "save"), ("os", "system"),
    ("os", "popen"), ("os", "fork"), ("os", "execv"), ("os", "posix_spawn"),
}  # fmt: skip


def forbidden(path: Path) -> Iterator[str]:
    """What a file says that it must not."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.partition(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield name
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in FORBIDDEN_METHODS:
                yield f"{module}.{name}"
            case (
                ast.keyword(arg="allow_pickle" | "shell" as name) | ast.keyword(arg="weights_only" as name, value=ast.Constant(value=False))
            ):
                yield name


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_that_serves_can_run_what_it_reads(path):
    assert list(forbidden(path)) == []


TELLTALES = (
    "import pickle", "from pickle import loads", "import os.path, marshal", "eval('1')", "np.load(f)", "torch.load(f, weights_only=False)",
    "read(f, allow_pickle=True)", "run('x', shell=True)", "def f():\n    import subprocess", "load = np.load",
)  # fmt: skip


@pytest.mark.parametrize("source", TELLTALES)
def test_the_look_into_the_source_finds_what_it_looks_for(tmp_path, source):
    (tmp_path / "module.py").write_text(source)
    assert list(forbidden(tmp_path / "module.py"))


class Bait:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: str) -> None:
        self._trace = trace

    def __reduce__(self):
        return open, (self._trace, "w")


def baits(trace, key):
    """Pickles wherever a client may put bytes: as a state, sealed or not, inside a state's values, and as a body."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(Bait(trace), protocol)
        sealed = state.append_mac(data, key)
        inside = state.append_mac(
            state.HEADER.pack(b"CSST", 1, 1, bool(key), 0, bytes(16), len(data) // 4, 0) + data[: len(data) // 4 * 4], key
        )
        for text in map(base64.urlsafe_b64encode, (data, sealed, inside)):
            yield orjson.dumps({"inputs": [[1, 2, 3]], "state": text.decode()})
            yield orjson.dumps({"session": {"id": "a", "action": "import"}, "state": text.decode()})
        yield data
        yield base64.b64encode(data)


# Everything that Python reports of itself (PEP 578) while a warm service answers: it opens, imports, runs and unpickles nothing.
WORKER = """
import sys
from base64 import b64decode
from pathlib import Path
from handlers.engine.factory import open_backend, open_store
from handlers.engine.context import ServiceContext
from tests.support.in_process import InProcess
from handlers.settings import Settings
from handlers.signature import Signature

folder, place, backend, key, *bodies = sys.argv[1:]
settings = Settings(backend=backend, device="cpu", store="lmdb://" + place, store_bytes=1 << 24, state_key=key, keep_versions=2)
signature = Signature.load(Path(folder) / "signature.json")
service = InProcess(ServiceContext(open_backend(Path(folder), signature, settings), signature, open_store(settings), settings))
bodies = [b64decode(body) for body in bodies]
first = service.handle_batch(bodies)  # whatever is made once, is made
events = []
sys.addaudithook(lambda event, arguments: events.append(event))
again = service.handle_batch(bodies)
found = sorted(set(events))
print([outcome.status for outcome in first], [outcome.status for outcome in again], found, sep="|")
"""
WATCHED = (
    "pickle.", "marshal.", "exec", "compile", "import", "subprocess.", "os.", "socket.", "ctypes.", "open", "shutil.", "code.", "cpython.",
)  # fmt: skip


@pytest.mark.parametrize("backend", ["onnxruntime", "torchscript"])
@pytest.mark.parametrize("key", ["", "the operator's key"], ids=["no key", "a key"])
def test_a_service_at_work_opens_imports_runs_and_unpickles_nothing(two, tmp_path, backend, key):
    trace = tmp_path / "trace"
    good = [
        {"inputs": [[1, 2, 3]], "return": ["prediction", "output", "h_n", "state"]},
        {"inputs": [[1, 2, 3]], "session": {"id": "a", "step": 0}},
        {"inputs": [[1, 2, 3]], "session": {"id": "a"}, "horizon": 3, "future": [[1, 2]] * 3},
        {"session": {"id": "a", "action": "export"}},
        {"session": {"id": "a", "action": "describe"}},
    ]
    bodies = [*map(orjson.dumps, good), *baits(str(trace), key.encode())]
    arguments = [str(two.folder), str(tmp_path / "store"), backend, key, *(base64.b64encode(body).decode() for body in bodies)]
    worker = subprocess.run([sys.executable, "-c", WORKER, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    first, again, events = (ast.literal_eval(part) for part in worker.stdout.split("|"))
    assert first[: len(good)] == [200] * len(good), worker.stderr
    assert {*first[len(good) :], *again[len(good) :]} <= {400, 409, 422}
    assert [event for event in events if event.startswith(WATCHED)] == []
    assert not trace.exists()


def test_the_bait_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bait(str(tmp_path / "trace")))).close()
    assert (tmp_path / "trace").exists()

"""What a worker's memory consists of: `python -m benchmarks.worker_memory`.

Imports, one after the other, what a worker of TorchServe imports before its first request, and loads the traffic model into ONNX Runtime.
Printed are the MB that each adds: memory of the process's own, which no other worker shares, and resident memory.
"""

import importlib
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    "NumPy": "numpy",
    "PyTorch": "torch",
    "TorchServe's worker": "ts.service",
    "ONNX Runtime": "onnxruntime",
    "the service": "handlers.torchserve.worker",
}


def memory() -> tuple[float, float]:
    """Return MB: written by this process, which no other can share, and resident."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    kilobytes = {name.rstrip(":"): int(value) for name, value, _ in lines}
    return kilobytes["Private_Dirty"] / 1024, kilobytes["Rss"] / 1024


def load_model() -> object:
    """Return the traffic model's session, to be kept."""
    from handlers.inference.backends.onnxruntime import OrtBackend
    from handlers.signature import Signature

    [archive] = (ROOT / "model_store").glob("traffic-*.mar")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as contents:
        contents.extractall(folder)
        signature = Signature.load(Path(folder) / "signature.json")
        return OrtBackend(Path(folder) / "model.onnx", signature, "cpu", 1)


def report(name: str, load: Callable[[], object]) -> object:
    """Print what `load` adds, and return what it gave."""
    before = memory()
    loaded = load()
    after = memory()
    print(f"{name:<22} own {after[0] - before[0]:6.1f}  resident {after[1] - before[1]:6.1f}")
    return loaded


def main() -> None:
    print("{:<22} own {:6.1f}  resident {:6.1f}".format("Python", *memory()))
    for name, module in MODULES.items():
        report(name, partial(importlib.import_module, module))
    _model = report("the traffic model", load_model)  # kept, so that what is in all counts it
    print("{:<22} own {:6.1f}  resident {:6.1f}".format("in all", *memory()))


if __name__ == "__main__":
    main()

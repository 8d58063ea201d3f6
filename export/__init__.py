"""Build time: a trained model in, a verified archive out. Never in the archive.

`export.lift(model, example_inputs)` is the whole of it for Python; `python -m export` for the command line.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime's wheels report home unless told before the import

if TYPE_CHECKING:
    from export.lift.lifted import lift as lift


def __getattr__(name: str) -> Any:
    if name == "lift":  # torch takes seconds to import: not for `python -m export --help`
        from export.lift.lifted import lift

        return lift
    raise AttributeError(f"module 'export' has no attribute {name!r}")

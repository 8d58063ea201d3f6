"""Where the time of a row goes in the core: `python -m benchmarks.stages`; with `--plot FILE` as a stacked picture.

The stages are those that a worker reports as the metric `stage_seconds`, by the clock; "other" is what lies between them: planning, the
tasks, counting, putting the response together. Reported is, for each stage, the lower quartile over the batches.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.core import FORMS, Prepared, bare, exported, frontends, lower_quartile, timed
from handlers import garbage
from handlers.metrics import PREFIX
from handlers.protocols.frontend import Frontend

PATHS = ((1, "bodies"), (64, "bodies"), (64, "one JSON body"), (64, "binary tensors"), (1024, "one JSON body"), (1024, "binary tensors"))
STAGES = ("decode", "read", "run", "encode", "commit", "other")
BARE = "bare ONNX Runtime"


def stages(frontend: Frontend, form: str, size: int, batches: int) -> dict[str, float]:
    """Return microseconds a row by stage."""
    work, telemetry, taken = FORMS[form](frontend, size), frontend.service.context.telemetry, []
    assert isinstance(work, Prepared)
    for n in range(batches):
        work.prepare(n)
        telemetry.take()
        began = time.perf_counter()
        work(n)
        whole = time.perf_counter() - began
        sums = {s.labels["stage"]: s.value for s in telemetry.take() if s.name == f"{PREFIX}stage_seconds_sum"}
        taken.append({**sums, "other": whole - sum(sums.values())})
    return {name: lower_quartile([one.get(name, 0.0) for one in taken]) / size * 1e6 for name in STAGES}


def plot(found: dict[str, dict[str, float]], file: Path) -> None:
    """Draw one stacked bar for each path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    below = [0.0] * len(found)
    for stage in (BARE, *STAGES):
        heights = [parts.get(stage, 0.0) for parts in found.values()]
        axes.barh(list(found), heights, left=below, label=stage)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("microseconds a row; batches of one row are off the scale")
    axes.set_xlim(0, 1.1 * max(width for name, width in zip(found, below, strict=True) if not name.startswith("1 ")))
    figure.legend(loc="outside lower center", ncols=7, fontsize="small")
    figure.savefig(file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each path")
    parser.add_argument("--plot", type=Path, help="where to draw, as SVG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    garbage.tune()
    found: dict[str, dict[str, float]] = {}
    print(f"{'':<24}" + "".join(f"{name:>8}" for name in (*STAGES, "whole", "bare")))
    with exported() as (model, signature):
        for size, form in PATHS:
            with frontends(model, signature) as made:
                batches = max(12, min(500, options.rows // size))
                parts = stages(made["LMDB"], form, size, batches)
                reference = timed(bare(made["LMDB"].service.context.backend, signature, size), batches) / size * 1e6
            found[f"{size:,} {form}"] = parts
            numbers = [*parts.values(), sum(parts.values()), reference]
            print(f"{size:>6,} {form:<17}" + "".join(f"{number:8.1f}" for number in numbers), flush=True)
            found[f"{size:,} bare"] = {BARE: reference}
    if options.plot:
        plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m export`: build an archive from a checkpoint, or inspect one."""

import argparse
import sys
import zipfile
from pathlib import Path
from typing import Any

import orjson

from export.errors import ExportError

TASKS = ("forecast", "regress", "classify")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _build(options) if options.verb == "build" else _inspect(options.archive, options.json)
    except ExportError as e:
        print(f"export: {' '.join(str(e).split())}", file=sys.stderr)  # foreign messages have lines
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description="Export a trained LSTM with its state explicit.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="checkpoint folders, or path/to/file.py:factory with its weights -> verified .mar archives")
    build.add_argument("models", nargs="+", help="folders with model.json and weights.safetensors; or one path/to/file.py:factory")
    build.add_argument("--store", type=Path, default=Path("model_store"), help="where the archives go (default: model_store)")
    build.add_argument("--config", type=Path, help="TorchServe's settings of the model (default: config/model-config.yaml)")
    build.add_argument("--calibrate", type=Path, help="CSV of a series that training did not see: forecasts get intervals")
    build.add_argument("--horizon", type=int, default=24, help="with --calibrate: how many steps ahead errors are measured (default: 24)")
    one = build.add_argument_group("for a factory")
    one.add_argument("--weights", type=Path, help=".safetensors, .pt, .pth or .ckpt; read without running code")
    one.add_argument("--example", type=Path, help=".npy: one window [T, F], or [T] token ids; .npz: forward's arguments in order")
    one.add_argument("--task", choices=TASKS, default="regress")
    one.add_argument("--name", help="of the model (default: the factory's)")
    one.add_argument("--version", default="1.0")
    one.add_argument("--features", type=_names, default=(), help="names of the input columns, a,b,c")
    one.add_argument("--outputs", type=_names, default=(), help="names of the output columns")
    one.add_argument("--tokens", type=int, default=0, help="the vocabulary's size, for token ids")
    one.add_argument("--feedback", type=_pairs, default={}, help="what feeds back in a forecast, output=feature,…")
    one.add_argument("--frequency", default="", help='of the observations: "15min", "1h", "1D"')
    one.add_argument("--calendar", type=_json, default={}, help="time zone and features derived from the time, a JSON object")
    one.add_argument("--arguments", type=_json, default={}, help="the factory's keyword arguments, a JSON object")
    inspect = verbs.add_parser("inspect", help="show what an archive holds")
    inspect.add_argument("archive", type=Path)
    inspect.add_argument("--json", action="store_true", help="the whole signature, for machines")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _pairs(text: str) -> dict[str, str]:
    pairs = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    if len(pairs) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"expected output=feature pairs, got {text!r}")
    return pairs


def _json(text: str) -> dict[str, Any]:
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


def _build(options: argparse.Namespace) -> int:
    import torch  # takes seconds to import: not for --help

    from export import build
    from export.packaging import checkpoint

    torch.set_num_threads(1)  # the grid is many small runs: more threads only wait for each other
    for model in options.models:
        print(f"{model}: lifting, exporting, verifying …", flush=True)
        loaded = _from_factory(model, options) if ":" in model else checkpoint.load(Path(model))
        calibration = build.Calibration(options.calibrate, options.horizon) if options.calibrate else None
        built = build.build_checkpoint(loaded, options.store, options.config or build.CONFIG, calibration)
        print(built.report.table())
        for artefact, why in built.signature["skipped"].items():
            print(f"  {artefact} skipped: {why}")
        if measured := built.signature.get("intervals"):
            print(f"  intervals: from {measured['forecasts']:,} forecasts of {measured['series']}; {'; '.join(measured['covered'])}")
        reason = built.signature["streaming"]["reason"]
        print(f"  streaming: {'no: ' + reason if reason else 'yes: any cut of a sequence gives what the whole gives'}")
        print(
            f"  -> {built.archive} ({built.archive.stat().st_size:,} bytes), model digest {built.signature['digests']['model'][:16]}",
            flush=True,
        )
    return 0


def _from_factory(reference: str, options: argparse.Namespace) -> Any:
    from export.packaging import checkpoint
    from export.packaging.model_spec import ModelSpec

    if len(options.models) > 1 or not options.weights or not options.example:
        raise ExportError("a factory is built alone, with --weights and --example")
    spec = ModelSpec(
        name=options.name or reference.rpartition(":")[2], version=options.version, factory=reference, task=options.task,
        outputs=options.outputs, features=options.features, tokens=options.tokens, feedback=options.feedback,
        frequency=options.frequency, calendar=options.calendar, arguments=options.arguments,
    )  # fmt: skip
    return checkpoint.Checkpoint(
        checkpoint.build_model(spec, options.weights), spec, checkpoint.read_example(options.example, options.tokens)
    )


def _inspect(archive: Path, as_json: bool) -> int:
    try:
        with zipfile.ZipFile(archive) as contents:
            document = orjson.loads(contents.read("signature.json"))
            sizes = {info.filename: info.file_size for info in contents.infolist()}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as e:
        raise ExportError(f"{archive}: not an archive of this project: {e}") from e
    if as_json:
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        return 0
    for line in _described(document):
        print(line)
    print(f"files     {', '.join(f'{name} {size:,}' for name, size in sizes.items() if not name.startswith('handlers/'))}")
    return 0


def _described(document: dict[str, Any]) -> list[str]:
    inputs, outputs, streaming = document["inputs"], document["outputs"], document["streaming"]
    shape = (
        f"[B, T, {len(inputs['features'])}] {', '.join(inputs['features'])}"
        if "features" in inputs
        else f"[B, T] ids below {inputs['vocabulary']}"
    )
    y = "[B, T, {}]" if outputs["per"] == "step" else "[B, {}]"
    states = [f"{e['name']}_0 -> {e['name']}_n  [{e['rows']}, B, {e['size']}] {e['dtype']}" for e in document["state"]]
    parity = max(d["difference"] for d in document["parity"]["largest"])
    return [
        f"model     {document['name']} {document['version']}, task {document['task']}: {document['description']}",
        f"x         {shape}",
        f"y         {y.format(len(outputs['names']))} {', '.join(outputs['names'])}",
        *([f"limit     numbers up to ±{inputs['limit']:.2g}"] if "limit" in inputs else []),
        f"output    [B, T, {outputs['output_size']}]",
        *(f"state     {line}" for line in states),
        f"streaming {'yes' if streaming['possible'] else 'no: ' + streaming['reason']}",
        f"parity    {parity:.1e} at most, allowed {document['parity']['tolerance']:.0e} (scaled differences from the eager model)",
        f"digests   model {document['digests']['model']}, weights {document['digests']['weights']}",
        f"tools     {', '.join(f'{name} {version}' for name, version in document['tools'].items())}",
    ]


if __name__ == "__main__":
    sys.exit(main())

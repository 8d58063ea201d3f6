"""`python -m export`: build an archive from a checkpoint, or inspect one."""

import argparse
import sys
import zipfile
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from export.errors import ExportError
from handlers.signature import FORMAT

TASKS = ("forecast", "regress", "classify")
LONGEST = 900  # characters of a message


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 2 for what a user can mend, 1 for a defect of the exporter."""
    options = _parser().parse_args(arguments)
    try:
        return _build(options) if options.verb == "build" else _inspect(options.archive, options.json)
    except ExportError as e:
        return _fail(str(e), 2)
    except SystemExit as e:
        return _fail(f"the model's code ended the program, by sys.exit({e.code!r}); nothing was written", 2)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    except Exception as e:  # one line for the terminal, whatever a model made PyTorch raise
        if options.verbose:
            raise
        return _fail(f"the exporter failed on this model: {type(e).__name__}: {e}; nothing was written; -v shows where", 1)


def _fail(message: str, code: int) -> int:
    print(f"export: {' '.join(message.split())[:LONGEST]}", file=sys.stderr)  # messages of other libraries have lines
    return code


def _parser() -> argparse.ArgumentParser:
    program = "cellstate export" if Path(sys.argv[0]).stem in ("cellstate", "cellstate_command") else "python -m export"
    parser = argparse.ArgumentParser(prog=program, description="Export a trained LSTM with its state explicit.")
    parser.add_argument("--version", action=_Version, help="show the versions of this exporter's tools and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="every difference that was measured, and where a failure came from")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="checkpoint folders, or path/to/file.py:factory with its weights -> verified .mar archives")
    build.add_argument("models", nargs="+", help="folders with model.json and weights.safetensors; or one path/to/file.py:factory")
    build.add_argument("--store", type=Path, default=Path("model_store"), help="where the archives go (default: model_store)")
    build.add_argument("--replace", action="store_true", help="replace the archive of a version that exists with other contents")
    build.add_argument("--config", type=Path, help="TorchServe's settings of the model (default: config/model-config.yaml)")
    build.add_argument("--calibrate", type=Path, help="CSV or Parquet of a series that training did not see: forecasts get intervals")
    build.add_argument("--horizon", type=int, default=24, help="with --calibrate: how many steps ahead errors are measured (default: 24)")
    build.add_argument(
        "--season", type=int, default=1, help="with --calibrate: steps after which a naive forecast repeats a value (default: 1)"
    )
    build.add_argument("--opset", type=int, choices=range(15, 21), default=18, help="of the ONNX file (default: 18)")
    build.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show every difference that was measured")
    one = build.add_argument_group("for a factory")
    one.add_argument("--weights", type=Path, help=".safetensors, .pt, .pth or .ckpt; read without running code")
    one.add_argument("--example", type=Path, help=".npy: one window [T, F], or [T] token ids; or .npz: forward's arguments")
    one.add_argument("--task", choices=TASKS, default="regress", help="what the model is for (default: regress)")
    one.add_argument("--name", help="of the model (default: the factory's)")
    one.add_argument("--version", default="1.0", help="of the model (default: 1.0)")
    one.add_argument("--features", type=_names, default=(), help="names of the input columns, a,b,c")
    one.add_argument("--outputs", type=_names, default=(), help="names of the output columns")
    one.add_argument("--tokens", type=int, default=0, help="the number of token ids, for a model that takes token ids")
    one.add_argument("--feedback", type=_pairs, default={}, help="what feeds back in a forecast, output=feature,…")
    one.add_argument(
        "--distribution",
        default="",
        metavar="KIND:NAMES",
        help='what the outputs are parameters of, "normal:mu,sigma", or their levels, "quantiles:0.1,0.5,0.9"',
    )
    one.add_argument("--frequency", default="", help='of the observations: "15min", "1h", "1D"')
    one.add_argument("--calendar", type=_json, default={}, help="time zone and features derived from the time, a JSON object")
    one.add_argument("--arguments", type=_json, default={}, help="the factory's keyword arguments, a JSON object")
    one.add_argument("--scaler", type=Path, help=".json with mean and scale of a scaler outside the module")
    one.add_argument("--axes", default="", help="of x, where the example does not show it: BTF (batch, time, features), TBF or BFT")
    one.add_argument("--x", default="", help="the argument of forward that runs over time, where the example does not show it")
    inspect = verbs.add_parser("inspect", help="show what an archive holds")
    inspect.add_argument("archive", type=Path, help="a .mar file")
    inspect.add_argument("--json", action="store_true", help="the whole signature, for machines")
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        tools = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
        found = [f"{name} {version}" for name in tools if (version := _version_of(name))]
        print(f"Cellstate exporter, signature format {FORMAT}; {', '.join(found)}")
        parser.exit()


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


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
        loaded = _from_factory(model, options) if ":" in model else checkpoint.load(Path(model))
        calibration = build.Calibration(options.calibrate, options.horizon, options.season) if options.calibrate else None
        making = build.Options(options.config or build.CONFIG, options.opset, partial(_tell, model), calibration, options.replace)
        built = build.build_checkpoint(loaded, options.store, making)
        print(built.report.table() if options.verbose else built.report.summary())
        for artefact, why in built.signature["skipped"].items():
            print(f"  {artefact} skipped: {why}")
        if measured := built.signature.get("intervals"):
            print(f"  {_measured(measured)}")
        for line in _distributions(built.signature):
            print(f"  distribution: {line}")
        reason = built.signature["streaming"]["reason"]
        print(f"  streaming: {'no: ' + reason if reason else 'yes: any cut of a sequence gives what the whole gives'}")
        if measured := built.signature.get("memory"):
            print(f"  memory: {_memory(measured)}")
        print(
            f"  -> {built.archive} ({built.archive.stat().st_size:,} bytes), model digest {built.signature['digests']['model'][:16]}",
            flush=True,
        )
    return 0


def _tell(model: str, what: str) -> None:
    print(f"{model}: {what} …", flush=True)


def _from_factory(reference: str, options: argparse.Namespace) -> Any:
    from export.packaging import checkpoint
    from export.packaging.model_spec import ModelSpec
    from export.scaling import read_scaler

    if len(options.models) > 1 or not options.weights or not options.example:
        raise ExportError("a factory is built alone, with --weights and --example")
    spec = ModelSpec(
        name=options.name or reference.rpartition(":")[2], version=options.version, factory=reference, task=options.task,
        outputs=options.outputs, features=options.features, tokens=options.tokens, feedback=options.feedback,
        distribution=options.distribution, frequency=options.frequency, calendar=options.calendar, arguments=options.arguments,
        axes=options.axes, x=options.x,
        scaler=read_scaler(options.scaler) if options.scaler else {},
    )  # fmt: skip
    model = checkpoint.build_model(spec, options.weights)
    return checkpoint.Checkpoint(model, spec, checkpoint.read_example(options.example, options.tokens, model))


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
        *(f"          {line}" for line in _distributions(document)),
        f"output    [B, T, {outputs['output_size']}]",
        *(f"state     {line}" for line in states),
        f"streaming {'yes' if streaming['possible'] else 'no: ' + streaming['reason']}",
        *([f"memory    {_memory(document['memory'])}"] if "memory" in document else []),
        f"parity    {parity:.1e} at most, allowed {document['parity']['tolerance']:.0e} (scaled differences from the eager model)",
        f"digests   model {document['digests']['model']}, weights {document['digests']['weights']}",
        f"tools     {', '.join(f'{name} {version}' for name, version in document['tools'].items())}",
    ]


def _memory(measured: dict[str, Any]) -> str:
    """Say after how many steps it makes no difference from which state a stream began."""
    if measured["steps"] is None:
        return f"longer than {measured['limit']} steps: more inputs than that are needed to rebuild the state of a stream"
    return f"{measured['steps']} steps, from which on streams that began from different states agree within {measured['tolerance']:.0e}"


def _measured(intervals: dict[str, Any]) -> str:
    if "forecasts" in intervals:
        return f"intervals: from {intervals['forecasts']:,} forecasts of {intervals['series']}; {'; '.join(intervals['covered'])}"
    return f"scores: beside the value {intervals['season']} steps before in {intervals['series']}"


def _distributions(document: dict[str, Any]) -> list[str]:
    """Describe what the outputs are parameters of, and which of them is the prediction."""
    return [
        f"{entry['kind']} of {', '.join(entry['outputs'])}; the prediction is {entry['prediction']}, the {entry['statistic']}"
        for entry in document.get("distribution", ())
    ]


if __name__ == "__main__":
    sys.exit(main())

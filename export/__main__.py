"""`python -m export`: build an archive from a checkpoint, look inside one."""

import argparse
import sys
import zipfile
from pathlib import Path

import orjson

from export.errors import ExportError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m export", description="Export a trained LSTM with its state explicit.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="checkpoint folders -> verified .mar archives")
    build.add_argument("checkpoints", nargs="+", type=Path, help="folders with model.json and weights.safetensors")
    build.add_argument("--store", type=Path, default=Path("model_store"), help="where the archives go (default: model_store)")
    inspect = verbs.add_parser("inspect", help="show what an archive holds")
    inspect.add_argument("archive", type=Path)
    inspect.add_argument("--json", action="store_true", help="the whole signature, for machines")
    options = parser.parse_args(arguments)
    try:
        return _build(options.checkpoints, options.store) if options.verb == "build" else _inspect(options.archive, options.json)
    except ExportError as e:
        print(f"export: {e}", file=sys.stderr)
        return 2


def _build(checkpoints: list[Path], store: Path) -> int:
    import torch  # takes seconds to import: not for --help

    from export.build import build

    torch.set_num_threads(1)  # the grid is many small runs: more threads only wait for each other
    for folder in checkpoints:
        print(f"{folder}: lifting, exporting, verifying …", flush=True)
        built = build(folder, store)
        print(built.report.table())
        reason = built.signature["streaming"]["reason"]
        print(f"  streaming: {'no: ' + reason if reason else 'yes: any cut of a sequence gives what the whole gives'}")
        print(
            f"  -> {built.archive} ({built.archive.stat().st_size:,} bytes), model digest {built.signature['digests']['model'][:16]}",
            flush=True,
        )
    return 0


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


def _described(document: dict) -> list[str]:  # type: ignore[type-arg]
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
        f"output    [B, T, {outputs['output_size']}]",
        *(f"state     {line}" for line in states),
        f"streaming {'yes' if streaming['possible'] else 'no: ' + streaming['reason']}",
        f"parity    {parity:.1e} at most, allowed {document['parity']['tolerance']:.0e} (scaled differences from the eager model)",
        f"digests   model {document['digests']['model']}, weights {document['digests']['weights']}",
        f"tools     {', '.join(f'{name} {version}' for name, version in document['tools'].items())}",
    ]


if __name__ == "__main__":
    sys.exit(main())

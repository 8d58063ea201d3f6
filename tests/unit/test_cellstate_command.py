"""`cellstate`: one name for every command, from any folder."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cellstate_command
import host
from cellstate_command import COMMANDS, main

ROOT = Path(cellstate_command.__file__).parent


@pytest.mark.parametrize(("module", "verb"), COMMANDS.values(), ids=COMMANDS)
def test_every_command_leads_to_one_that_there_is(module, verb, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*([verb] if verb else []), "--help"])
    assert ended.value.code == 0
    assert f" {verb}".rstrip() in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2), (["sreve"], 2)])
def test_help_names_every_command(capsys, arguments, code):
    assert main(arguments) == code
    shown = capsys.readouterr()
    text = shown.err if code else shown.out
    assert [name for name in COMMANDS if name not in text] == []


def test_the_version_is_the_one_that_is_installed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cellstate {host.VERSION}\n"
    with pytest.raises(SystemExit):
        main(["serve", "--version"])


def test_it_is_installed_under_its_name():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert document["project"]["scripts"] == {"cellstate": "cellstate_command:main"}
    assert set(document["tool"]["setuptools"]["packages"]) >= {module.partition(".")[0] for module, _ in COMMANDS.values()}


def test_it_works_in_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "cellstate_command.py", "status"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cellstate: no server was started in run")


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_names_the_command_as_it_was_called(name, monkeypatch, capsys):
    module, verb = COMMANDS[name]
    for program, expected in (("/usr/bin/cellstate", f"usage: cellstate {name}"), ("…/__main__.py", "usage: python -m ")):
        monkeypatch.setattr(sys, "argv", [program])
        with pytest.raises(SystemExit):
            importlib.import_module(module).main([*([verb] if verb else []), "--help"])
        assert capsys.readouterr().out.startswith(expected)


def test_messages_name_the_command_as_it_was_called(tmp_path, monkeypatch, capsys):
    for program, prefix, build in (
        ("cellstate", "cellstate", "cellstate export build"),
        ("x/__main__.py", "host", "python -m export build"),
    ):
        monkeypatch.setattr(sys, "argv", [program])
        assert importlib.import_module("host.__main__").main(["serve", "--store", str(tmp_path), "--folder", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"{prefix}: ")
        assert f"`{build}`" in said
    monkeypatch.setattr(sys, "argv", ["cellstate"])
    assert main(["sessions", f"lmdb://{tmp_path}", "stats"]) == 2
    assert capsys.readouterr().err.startswith("cellstate: ")

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
    assert done.stderr.startswith("host: no server was started in run")

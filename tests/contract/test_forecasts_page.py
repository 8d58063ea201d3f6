"""docs/forecasts.md by example: every request on the page is sent, in its order, and answered as the page says."""

import re
import shlex
import subprocess
import zipfile
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import orjson
import pytest
import torch

from examples import traffic_data
from export import __main__ as export_command
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.memory import MemoryStore
from host.bulk import command as bulk_command
from host.bulk.jobs import Server
from tests.conftest import answer, ask, export_spec, make_service
from tests.contract.test_sessions_page import told
from tests.support.calibrated import calibrated, write_series
from tests.support.distribution_models import spec
from tests.support.host_in_memory import HostInMemory
from tests.support.in_process import InProcess

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "forecasts.md").read_text()
BEFORE, _, SECTION = PAGE.partition("## Models that predict a distribution\n")
OF_DISTRIBUTIONS, _, AFTER = SECTION.partition("\n## ")


def meter(exported, folder):
    """The page's model: its calendar has hours, and it was calibrated."""
    model = exported("one")
    model = replace(model, signature=replace(model.signature, name="meter", frequency="1h"))
    model = calibrated(model, write_series(folder / "load.csv", model.sequence(400, seed=3)), 6)
    return replace(model, signature=replace(model.signature, calendar={"gaps": "fill"}))


def examples(text):
    """Each request, its status and its answer."""
    return re.findall(r"^(\{.*\})\n    (\d{3}) (\{.*\})$", text, re.MULTILINE)


def check(service, text, count):
    assert len(examples(text)) == text.count('\n{"') == count
    for request, status, page in examples(text):
        [(found, reply)] = ask(service, request.encode())
        expected = orjson.loads(page)
        assert (found, expected) == (int(status), told(reply, expected)), f"{request}\n    {found} {orjson.dumps(reply).decode()}"


def test_what_the_page_says_is_answered(exported, tmp_path):
    check(make_service(meter(exported, tmp_path)), BEFORE.partition("\n## The examples of this page")[2] + AFTER, 9)


def test_what_the_page_says_of_a_model_of_distributions_is_answered(tmp_path):
    model = export_spec(tmp_path, "load", spec("normal"))
    check(make_service(model), OF_DISTRIBUTIONS, 3)


def commands(text):
    """What stands behind `$`, with the lines that go on, and what is printed under it."""
    blocks = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    return [(line.replace("\\\n", " "), shown) for line, shown in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:[^$].*\n)*)", blocks, re.MULTILINE)]


class TestCommandsOfTheMeter:
    """The commands from "Warm start" on, in their order, over a file of two series."""

    @pytest.fixture
    def run(self, exported, tmp_path, monkeypatch):
        """Run a command of the page against the served model; return its exit code."""
        (tmp_path / "in").mkdir()
        model = meter(exported, tmp_path / "in")
        monkeypatch.chdir(tmp_path)
        host = HostInMemory("meter", make_service(model))
        load = model.sequence(400, seed=8)[:, 0]
        rows = [f"{name},{datetime(2024, 1, 1) + timedelta(hours=i):%Y-%m-%dT%H:%M:%S},{load[i]}" for i in range(400) for name in "ab"]
        Path("history.csv").write_text("\n".join(["series,time,load", *rows]) + "\n")

        def run(command):
            words = shlex.split(command)
            assert words[:3] == ["python", "-m", "host.sessions"]
            server = Server("http://host", "meter", http=httpx.Client(transport=host.transport))
            return bulk_command.main([*words[3:], "--parallel", "1"], lambda _: server)

        return run

    def test_they_do_what_the_page_says(self, run, capsys):
        [warm, wrong, backtest] = commands(PAGE.partition("## Warm start")[2])
        assert run(warm[0]) == 0
        assert "800 rows sent to 2 sessions; 0 had all of theirs; 0 failed" in capsys.readouterr().out
        assert run(backtest[0]) == 0
        assert Path("scores.png").read_bytes().startswith(b"\x89PNG")
        assert orjson.loads(Path("scores.json").read_bytes())["series"] == 2
        capsys.readouterr()
        Path("history.csv").write_text("series,time,load\na,2024-01-01T00:00:00,1\na,2024-01-01T01:00:00,n/a\n")
        assert run(wrong[0]) == 2
        printed = capsys.readouterr().err
        assert printed.partition(": ")[2] == wrong[1].partition(": ")[2]


def test_the_command_that_calibrates_the_shipped_model(tmp_path, monkeypatch, capsys):
    """On the 120 days before the 60 that are left for tests, as the page's numbers were measured."""
    series = traffic_data.load()
    first = len(series) - traffic_data.TEST_HOURS
    traffic_data.write_csv(series.between(first - 2_880, first), tmp_path / "held-out.csv")
    monkeypatch.chdir(tmp_path)
    Path("model_store").mkdir()
    for part in ("export", "config", "model_store/traffic"):  # as in the repository, and the archive beside them
        Path(part).symlink_to(ROOT / part)
    [(command, shown)] = commands(BEFORE.partition("\n## Intervals")[2])
    assert export_command.main(shlex.split(command)[3:]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  intervals:")]
    assert line.startswith(shown.splitlines()[-1].removesuffix("…"))


def test_the_command_that_builds_a_model_of_distributions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = """
import torch
from torch import nn


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return 0.1 + nn.functional.softplus(self.head(self.lstm(x / 10)[0][:, -1]))
"""
    Path("net.py").write_text(source)
    space = {}
    exec(source, space)
    torch.manual_seed(0)
    torch.save(space["Calls"]().state_dict(), "calls.pt")
    np.save("window.npy", np.random.default_rng(0).poisson(12, (24, 1)).astype(np.float32))
    [(command, shown)] = commands(OF_DISTRIBUTIONS)
    assert export_command.main(shlex.split(command)[3:]) == 0
    assert shown.splitlines()[-1] in capsys.readouterr().out.splitlines()


class TestFromACsvToAForecast:
    """The page's first section: its files are made, its commands are run in their order, and its request is answered."""

    SECTION = PAGE.partition("## From a CSV")[2].partition("\n## ")[0]

    @pytest.fixture
    def place(self, tmp_path, monkeypatch):
        """A folder with `load.csv`, `net.py`, `net.pt` and `window.npy`: the page's days, with holes and nights in which clocks are set."""
        monkeypatch.chdir(tmp_path)
        zone, random = ZoneInfo("America/Chicago"), np.random.default_rng(11)
        moments = [datetime.fromtimestamp(1_704_693_600 + 3_600 * i, zone) for i in range(7_500)]
        values = [57 + 20 * np.sin(2 * np.pi * moment.hour / 24) + random.normal(0, 4) for moment in moments]
        rows = [
            f"{moment:%Y-%m-%dT%H:%M:%S},{'' if i % 97 == 5 else round(v, 2)}"
            for i, (moment, v) in enumerate(zip(moments, values, strict=True))
        ]
        Path("load.csv").write_text("\n".join(["time,load", *rows]) + "\n")
        [source] = re.findall(r"```python\n(.*?)```", self.SECTION, re.DOTALL)
        Path("net.py").write_text(source)
        space = {}
        exec(source, space)
        torch.manual_seed(0)
        torch.save(space["Net"]().state_dict(), "net.pt")
        hours = np.arange(72)
        np.save("window.npy", np.stack([np.array(values[:72]), np.sin(hours), np.cos(hours)], 1).astype(np.float32))
        return tmp_path

    def test_the_commands_do_what_the_page_says(self, place, capsys):
        cut, build, serve, cut_again, backtest, warm, curl = (command for command, _ in commands(self.SECTION))
        subprocess.run(cut, shell=True, check=True)
        assert export_command.main(shlex.split(build)[3:]) == 0
        assert "intervals: from 1,551 forecasts of held-out.csv" in capsys.readouterr().out
        assert serve == "python -m host serve"
        service, host = self.served(place)
        subprocess.run(cut_again, shell=True, check=True)
        for command in (backtest, warm):
            words = shlex.split(command)
            assert words[:3] == ["python", "-m", "host.sessions"]
            server = Server("http://host", "load", http=httpx.Client(transport=host.transport))
            assert bulk_command.main([*words[3:], "--parallel", "1"], lambda _, server=server: server) == 0
        assert "2,099 rows sent to 1 sessions" in capsys.readouterr().out
        reply = answer(service, orjson.loads(shlex.split(curl)[-1]))
        assert reply["times"][0] == "2024-10-21T13:00:00-05:00"
        assert len(reply["intervals"]["80"]["lower"]) == len(reply["forecast"]) == 3

    def served(self, place):
        """The archive as a server has it."""
        [path] = (place / "model_store").glob("*.mar")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(place / "unzipped")
        signature, settings = Signature.load(place / "unzipped" / "signature.json"), Settings(store="memory://", device="cpu")
        context = ServiceContext(open_backend(place / "unzipped", signature, settings), signature, MemoryStore(), settings)
        service = InProcess(context)
        return service, HostInMemory("load", service)

"""docs/client.md by example: every block is run in its order, and prints what the page says."""

import functools
import re
from pathlib import Path

import httpx
import pytest

from tests.conftest import make_service
from tests.support.host_in_memory import HostInMemory

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture
def server(exported, monkeypatch, tmp_path):
    """What the page's URL and token lead to."""
    host = HostInMemory("meter", make_service(exported("one"), keep_versions=3), token="secret")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "key").write_text("secret\n")
    monkeypatch.chdir(tmp_path)
    for kind in (httpx.Client, httpx.AsyncClient):
        monkeypatch.setattr(httpx, kind.__name__, functools.partial(kind, transport=host.transport))
    return host


def expected_lines():
    """The comments behind each `print`, in the order of the page; those of a loop are separated by semicolons."""
    comments = re.findall(r"^ *print\(.*\)  # (.*)$", "".join(BLOCKS), re.MULTILINE)
    return [line for comment in comments for line in comment.split("; ")]


def assert_same_line(found, page):
    assert NUMBER.sub("#", found) == NUMBER.sub("#", page)
    numbers, wanted = ([float(number) for number in NUMBER.findall(line)] for line in (found, page))
    assert numbers == pytest.approx(wanted, abs=1e-4), found


def test_the_page_does_what_it_says(server, capsys):
    namespace = {}
    for block in BLOCKS:
        exec(compile(block, "docs/client.md", "exec"), namespace)
    found = [re.sub(r" +", " ", line.replace("[ ", "[")) for line in capsys.readouterr().out.splitlines()]
    print(*found, sep="\n")
    assert len(found) == len(expected_lines())
    for line, page in zip(found, expected_lines(), strict=True):
        assert_same_line(line, page)

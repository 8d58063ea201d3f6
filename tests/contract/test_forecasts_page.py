"""docs/forecasts.md by example: every request on the page is sent, in its order, and answered as the page says."""

import re
from dataclasses import replace
from pathlib import Path

import orjson

from tests.conftest import ask, make_service
from tests.contract.test_sessions_page import told
from tests.support.calibrated import calibrated, write_series

PAGE = (Path(__file__).parents[2] / "docs" / "forecasts.md").read_text()
EXAMPLES = re.findall(r"^(\{.*\})\n    (\d{3}) (\{.*\})$", PAGE, re.MULTILINE)


def meter(exported, folder):
    """The page's model: its calendar has hours, and it was calibrated."""
    model = exported("one")
    model = replace(model, signature=replace(model.signature, frequency="1h"))
    model = calibrated(model, write_series(folder / "load.csv", model.sequence(400, seed=3)), 6)
    return replace(model, signature=replace(model.signature, calendar={"gaps": "fill"}))


def test_what_the_page_says_is_answered(exported, tmp_path):
    service = make_service(meter(exported, tmp_path))
    assert len(EXAMPLES) == PAGE.count('\n{"') == 9
    for request, status, page in EXAMPLES:
        [(found, reply)] = ask(service, request.encode())
        expected = orjson.loads(page)
        assert (found, expected) == (int(status), told(reply, expected)), f"{request}\n    {found} {orjson.dumps(reply).decode()}"

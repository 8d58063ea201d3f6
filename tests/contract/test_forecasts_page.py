"""docs/forecasts.md by example: every request on the page is sent, in its order, and answered as the page says."""

import re
from dataclasses import replace
from pathlib import Path

import orjson

from tests.conftest import ask, export_spec, make_service
from tests.contract.test_sessions_page import told
from tests.support.calibrated import calibrated, write_series
from tests.support.distribution_models import spec

PAGE = (Path(__file__).parents[2] / "docs" / "forecasts.md").read_text()
BEFORE, _, SECTION = PAGE.partition("## Models that predict a distribution\n")
OF_DISTRIBUTIONS, _, AFTER = SECTION.partition("\n## ")


def meter(exported, folder):
    """The page's model: its calendar has hours, and it was calibrated."""
    model = exported("one")
    model = replace(model, signature=replace(model.signature, frequency="1h"))
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
    check(make_service(meter(exported, tmp_path)), BEFORE + AFTER, 9)


def test_what_the_page_says_of_a_model_of_distributions_is_answered(tmp_path):
    model = export_spec(tmp_path, "load", spec("normal"))
    check(make_service(model), OF_DISTRIBUTIONS, 1)

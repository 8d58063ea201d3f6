"""docs/forecasts.md by example: every request on the page is sent, in its order, and answered as the page says."""

import re
from dataclasses import replace
from pathlib import Path

import orjson

from tests.conftest import ask, make_service
from tests.contract.test_sessions_page import told

PAGE = (Path(__file__).parents[2] / "docs" / "forecasts.md").read_text()
EXAMPLES = re.findall(r"^(\{.*\})\n    (\d{3}) (\{.*\})$", PAGE, re.MULTILINE)


def test_what_the_page_says_is_answered(exported):
    model = exported("one")
    service = make_service(replace(model, signature=replace(model.signature, frequency="1h", calendar={"gaps": "fill"})))
    assert len(EXAMPLES) == PAGE.count('\n{"') == 6
    for request, status, page in EXAMPLES:
        [(found, reply)] = ask(service, request.encode())
        expected = orjson.loads(page)
        assert (found, expected) == (int(status), told(reply, expected)), f"{request}\n    {found} {orjson.dumps(reply).decode()}"

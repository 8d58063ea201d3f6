"""docs/sessions.md by example: every request on the page is sent, in its order, and answered as the page says."""

import re
from pathlib import Path

import orjson
import pytest

from tests.conftest import ask, make_service

PAGE = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text()
EXAMPLES = re.findall(r"^(\{.*\})\n    (\d{3}) (\{.*\})$", PAGE, re.MULTILINE)
LEFT_OUT = {"model", "expires_at"}


def told(found, page, left_out=LEFT_OUT):
    """`found`, in the words of the page where those leave something out or round it."""
    if isinstance(page, str) and "…" in page:
        pattern = ".*".join(map(re.escape, page.split("…")))
        return page if isinstance(found, str) and re.fullmatch(pattern, found, re.DOTALL) else found
    if isinstance(page, dict) and isinstance(found, dict):
        return {name: told(value, page.get(name), left_out) for name, value in found.items() if name not in left_out}
    if isinstance(page, list) and isinstance(found, list) and len(page) == len(found):
        return [told(*pair, left_out) for pair in zip(found, page, strict=True)]
    return pytest.approx(found, abs=1e-4) if isinstance(found, float) else found


def test_the_page_has_every_action_and_every_kind_of_answer():
    actions = set(re.findall(r'"action": "(\w+)"', "".join(request for request, _, _ in EXAMPLES)))
    assert actions == {"describe", "fork", "rewind", "export", "import", "close"}
    assert {status for _, status, _ in EXAMPLES} == {"200", "404", "409", "410", "422"}
    assert len(EXAMPLES) == PAGE.count('\n{"') == len(re.findall(r"^    \d{3} ", PAGE, re.MULTILINE)), "an example that is not run"


def test_what_the_page_says_is_answered(exported):
    service, state = make_service(exported("one"), keep_versions=3), ""
    for request, status, page in EXAMPLES:
        [(found, reply)] = ask(service, request.replace('"state": "…"', f'"state": "{state}"').encode())
        state = reply.get("state", state)
        expected = orjson.loads(page)
        assert (found, expected) == (int(status), told(reply, expected)), f"{request}\n    {found} {orjson.dumps(reply).decode()}"

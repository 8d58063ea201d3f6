"""docs/open-inference.md and docs/kserve-v1.md by example: every request on the pages is sent, and answered as the page says."""

import re
from pathlib import Path

import orjson
import pytest

from tests.conftest import ask, make_service
from tests.contract.test_sessions_page import told

DOCS = Path(__file__).parents[2] / "docs"


def without_programs(page):
    """The page without its sessions by curl and in Python, which tests/e2e/test_pages.py runs."""
    return re.sub(r"^```\w+\n.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["open-inference.md", "kserve-v1.md"])
def test_what_the_page_says_is_answered(exported, name):
    page, service = without_programs((DOCS / name).read_text()), make_service(exported("one"), keep_versions=3)
    examples = re.findall(r"^(\{.*\})\n    (\d{3}) (\{.*\})$", page, re.MULTILINE)
    assert len(examples) == page.count('\n{"') >= 3, "an example that is not run"
    for request, status, answer in examples:
        [(found, reply)] = ask(service, request.encode())
        expected = orjson.loads(answer)
        assert (found, expected) == (int(status), told(reply, expected)), f"{request}\n    {found} {orjson.dumps(reply).decode()}"

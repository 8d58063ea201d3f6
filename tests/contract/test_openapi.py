"""docs/openapi.yaml is what the code says, valid, and true: its examples are answered as it shows, and it allows what the service takes."""

import ast
import itertools
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from openapi_spec_validator import validate

from handlers.errors import CellstateError
from handlers.protocols.base import HttpRequest
from handlers.protocols.native.decode import Parser
from handlers.sessions.reference import MAX_STEP, Action
from handlers.settings import Settings
from openapi import errors, examples
from openapi.document import as_yaml
from tests.conftest import make_service
from tests.contract.test_sessions_page import told
from tests.support.api_description import DESCRIPTION, KSERVE_V1, NATIVE, OPEN_INFERENCE, PATH, check_reply, is_request, response
from tests.support.json_strategies import bodies, requests
from tests.support.signatures import METER

HANDLERS = Path(__file__).parents[2] / "handlers"
EXAMPLES = [
    (path, example)
    for path, group in ((NATIVE, examples.NATIVE), (OPEN_INFERENCE, examples.OPEN_INFERENCE), (KSERVE_V1, examples.KSERVE_V1))
    for example in group
]
ROUTES = {NATIVE: "", OPEN_INFERENCE: "/v2/", KSERVE_V1: "/v1/"}  # what a host tells of the path
DIFFER = ("expires_at", "created_at", "model_digest", "state")  # from one server to the next


def test_the_file_is_what_the_code_says():
    assert PATH.read_text() == as_yaml(), "write it again: python -m openapi > docs/openapi.yaml"


def test_it_is_valid():
    validate(DESCRIPTION)


@pytest.mark.parametrize("path", ROUTES)
def test_every_error_is_a_response_of_every_protocol(path):
    assert all(errors.remarks()[kind.__name__] for kind in errors.leaves())
    for kind in errors.leaves():
        document = {"error": kind("m").body()} if path == NATIVE else {"error": f"{kind.code}: m"}
        check_reply(path, kind.status, document, kind("m").headers)


@pytest.fixture(scope="module")
def service(exported):
    """The examples' model."""
    model = exported("one")
    return make_service(replace(model, signature=replace(model.signature, name="meter")), keep_versions=3)


def stable(item):
    """A reply, or an example of one, without what differs."""
    if isinstance(item, dict):
        return {name: "…" if name in DIFFER else stable(value) for name, value in item.items()}
    return [stable(value) for value in item] if isinstance(item, list) else item


def reply_to(service, path, body):
    [found] = service.frontend.handle_batch([HttpRequest(body, path=ROUTES[path])])
    return found.status, orjson.loads(found.body), found.headers


def test_every_example_is_answered_as_it_shows(service):
    for path, example in EXAMPLES:
        status, reply, headers = reply_to(service, path, orjson.dumps(example.request))
        expected = stable(example.answer)
        assert (status, expected) == (example.status, told(stable(reply), expected, left_out=())), (
            f"{path} {example.name}: {status} {reply}"
        )
        check_reply(path, status, reply, headers)
        check_reply(path, status, example.answer)
        assert is_request(path, example.request) or status in (400, 413, 422), example.name


@given(body=bodies(requests(columns=1)))
def test_every_reply_conforms(service, body):
    for path in ROUTES:
        check_reply(path, *reply_to(service, path, body))


# What the service takes and what the description allows are the same.

FIELDS = {"id": "a", "to": "b", "step": 3, "from": 5, "generation": 1}
PARSER = Parser(METER, Settings())


def is_taken(document):
    try:
        PARSER.request(document)
    except CellstateError:
        return False
    return True


@pytest.mark.parametrize("action", Action)
def test_an_action_has_the_fields_that_the_service_takes(action):
    for count in range(len(FIELDS) + 1):
        for names in itertools.combinations(FIELDS, count):
            session = {"action": action} | {name: FIELDS[name] for name in names}
            document = {"session": session} | ({"inputs": [1]} if action is Action.STEP else {})
            if action is not Action.IMPORT:
                no_id = action is Action.STEP and "id" not in session  # then a step can only be 0, which no schema says
                assert is_request(NATIVE, document) == is_taken(document) or no_id, document
            else:
                assert not is_request(NATIVE, document), "without a state"


AT_THE_EDGE = {
    "steps": lambda more: {"inputs": [1.0] * (10_000 + more)},
    "horizon": lambda more: {"inputs": [1.0], "horizon": 1_000 + more},
    "step": lambda more: {"inputs": [1.0], "session": {"id": "a", "step": MAX_STEP + more}},
    "an id": lambda more: {"inputs": [1.0], "session": "a" * (128 + more)},
    "no steps": lambda more: {"inputs": [1.0] * (1 - more)},
    "no id": lambda more: {"inputs": [1.0], "session": "a" * (1 - more)},
}


@pytest.mark.parametrize("name", AT_THE_EDGE)
def test_a_limit_is_where_the_service_has_it(name):
    for more in (0, 1):
        document = AT_THE_EDGE[name](more)
        assert is_request(NATIVE, document) == is_taken(document) == (not more)


def test_a_body_holds_as_many_instances_as_the_description_allows():
    for count in (4_096, 4_097):
        document = {"instances": [{"inputs": [1.0]}] * count}
        [first, *_], _ = PARSER.body(orjson.dumps(document))
        assert is_request(NATIVE, document) == (not isinstance(first, CellstateError)) == (count == 4_096)


def test_what_may_be_tried_again_says_when():
    assert response(NATIVE, 429)["headers"]["Retry-After"]["required"]
    assert response(NATIVE, 401)["headers"]["WWW-Authenticate"]["required"]


def test_every_detail_of_an_error_is_described():
    names = {kind.__name__ for kind in errors.leaves()}
    calls = [
        node for path in sorted(HANDLERS.rglob("*.py")) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    raised = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in names]
    given = {keyword.arg for call in raised for keyword in call.keywords} - {"public"}  # which is no detail
    assert len(raised) > 50
    assert given <= set(errors.DETAILS)

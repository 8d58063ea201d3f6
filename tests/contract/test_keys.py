"""Keys at the front end: each protocol refuses in its own form, nothing is applied, and one row's key is no other row's."""

import orjson
import pytest

from handlers import keys
from handlers.keys import OPERATE, PREDICT, Caller, KeyRing
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from tests.conftest import make_service
from tests.support.requests import contents


@pytest.fixture
def texts(tmp_path):
    """Two keys by name: one may predict, one may only operate."""
    made = {name: keys.generate(Caller(name, scopes=frozenset({scope})), 0.0) for name, scope in (("user", PREDICT), ("operator", OPERATE))}
    (tmp_path / "keys.json").write_bytes(keys.dump(key for _, key in made.values()))
    return {name: text for name, (text, _) in made.items()}


@pytest.fixture
def service(two, texts, tmp_path):
    made = make_service(two)
    made.frontend = Frontend(made.frontend.service, KeyRing(tmp_path / "keys.json"))
    return made


def bearer(text):
    return {"authorization": f"Bearer {text}"}


def bodies(x):
    rows = x.tolist()
    session = {"id": "a", "step": 0}
    return {
        "one request": {"inputs": rows, "session": session},
        "many requests": {"instances": [{"inputs": rows, "session": session}] * 2},
        "no request": {},
        "KServe V1": {"instances": [rows]},
        "Open Inference": {"inputs": [{"name": "x", "shape": [1, *x.shape], "datatype": "FP32", "data": rows}]},
    }


FORMS = {
    "one request": lambda body: body["error"]["code"],
    "many requests": lambda body: body["error"]["code"],
    "no request": lambda body: body["error"]["code"],
    "KServe V1": lambda body: body["error"].partition(":")[0],
    "Open Inference": lambda body: body["error"].partition(":")[0],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("who", "status", "code"), [(None, 401, "unauthenticated"), ("operator", 403, "forbidden")])
def test_a_request_without_its_key_is_refused_in_its_protocols_form_and_changes_nothing(service, two, texts, form, who, status, code):
    body = orjson.dumps(bodies(two.sequence(3))[form])
    [response] = service.frontend.handle_batch([HttpRequest(body, bearer(texts[who]) if who else {})])
    assert (response.status, FORMS[form](orjson.loads(response.body))) == (status, code)
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert contents(service.frontend.service.context.store) == {}


def test_a_body_without_a_key_is_not_decoded(service):
    [response] = service.frontend.handle_batch([HttpRequest(b"{")])
    assert response.status == 401


def test_in_one_batch_each_request_has_its_own_key(service, two, texts):
    body = orjson.dumps({"inputs": two.sequence(3).tolist()})
    headers = [{}, bearer(texts["user"]), {"x-api-key": "wrong"}, {"x-api-key": texts["user"]}]
    responses = service.frontend.handle_batch([HttpRequest(body, sent) for sent in headers])
    assert [response.status for response in responses] == [401, 200, 401, 200]

"""A stream goes on at the version of its model that has its state, after another version became the default."""

import dataclasses

import httpx
import pytest

import cellstate
from cellstate import Client
from cellstate.exchange import Caller
from cellstate.tokens import TokenSource
from handlers.stores.memory import MemoryStore
from tests.conftest import assert_close, make_service
from tests.support import eager
from tests.support.clients import POLICY
from tests.support.host_in_memory import HostInMemory


class Versions:
    """The handler of an `httpx.MockTransport`: versions 1.0 and 2.0 of the model `two` over one store."""

    def __init__(self, exported):
        self.store = store = MemoryStore()
        models = {"1.0": exported("two"), "2.0": exported("retrained")}
        self.hosts = {version: HostInMemory("two", make_service(model, store=store)) for version, model in models.items()}
        self.default, self.paths = "1.0", []

    def __call__(self, request):
        self.paths.append(request.url.path)
        version = request.url.path.removeprefix("/predictions/two").strip("/") or self.default
        return self.hosts[version](request)


@pytest.fixture
def versions(exported):
    return Versions(exported)


@pytest.fixture
def client(versions):
    with httpx.Client(transport=httpx.MockTransport(versions)) as http:
        yield Client("http://host", policy=POLICY, http=http)


def test_a_stream_goes_on_at_the_version_that_has_its_state_and_a_new_one_begins_at_the_default(versions, client, two):
    x = two.sequence(6)
    stream = client.stream("two", "a")
    stream.step(x[:2])
    versions.default = "2.0"
    versions.paths.clear()
    results = [stream.step(x[n : n + 1]) for n in range(2, 6)]
    assert_close(results[-1].prediction, eager.run(two.model, x).prediction, "prediction across the change")
    assert {result.model.version for result in results} == {"1.0"}
    assert versions.paths == ["/predictions/two"] + ["/predictions/two/1.0"] * 4, "it asks the default once"
    assert client.stream("two", "b").step(x[:1]).model.version == "2.0"


def test_a_stream_of_a_version_that_was_named_stays_there(versions, client, two):
    client.stream("two", "a").step(two.sequence(2))
    with pytest.raises(cellstate.ModelChanged) as raised:
        client.stream("two/2.0", "a").step(two.sequence(1))
    assert raised.value.version == "1.0"


def test_two_versions_that_both_refuse_are_an_error(versions, client, two):
    stream = client.stream("two", "a")
    stream.step(two.sequence(2))
    versions.default = "2.0"
    versions.hosts["1.0"] = versions.hosts["2.0"]
    with pytest.raises(cellstate.ModelChanged):
        stream.step(two.sequence(1))


def test_rows_of_a_batch_go_on_at_the_versions_that_have_their_states(versions, client, two):
    x = two.sequence(4)
    old, new = ([client.stream("two", f"{age}-{n}") for n in range(2)] for age in ("old", "new"))
    client.batch([(stream, x[:2]) for stream in old])
    versions.default = "2.0"
    versions.paths.clear()
    results = client.batch([(stream, x[:2] if stream in new else x[2:3]) for stream in (new[0], *old, new[1])])
    assert [result.model.version for result in results] == ["2.0", "1.0", "1.0", "2.0"]
    assert versions.paths == ["/predictions/two"] * 2 + ["/predictions/two/1.0"], "one asks where the new ones are"
    results = client.batch([(stream, x[3:]) for stream in (*old, *new)])
    assert versions.paths[3:] == ["/predictions/two/1.0", "/predictions/two"]
    assert_close(results[0].prediction, eager.run(two.model, x).prediction, "prediction across the change")


def test_a_version_that_does_not_answer_is_the_error_of_its_own_rows(versions, client, two):
    old, new = client.stream("two", "old", position=0), client.stream("two", "new", position=0)
    client.batch([(old, two.sequence(2))])
    versions.default = "2.0"
    versions.hosts["1.0"].faults.append(httpx.Response(413, json={"code": 413, "type": "", "message": "too large"}))
    results = client.batch([(old, two.sequence(1)), (new, two.sequence(1))])
    assert [type(result).__name__ for result in results] == ["TooLarge", "Result"]
    assert (old.position, new.position) == (2, 1)


def test_a_version_that_is_gone_touches_no_other_rows(versions, client, two):
    old, new = client.stream("two", "old", position=0), client.stream("two", "new", position=0)
    client.batch([(old, two.sequence(2))])
    versions.default = "2.0"
    client.batch([(old, two.sequence(1))])  # goes on at 1.0
    gone = httpx.Response(404, json={"code": 404, "type": "ModelVersionNotFoundException", "message": "no version 1.0"})
    versions.hosts["1.0"].faults.extend([gone, gone])
    results = client.batch([(old, two.sequence(1)), (new, two.sequence(1))])
    assert [type(result).__name__ for result in results] == ["ModelChanged", "Result"], "the default was asked as well"
    assert [type(result).__name__ for result in client.batch([(old, two.sequence(1))])] == ["ModelNotFound"]
    assert (old.position, new.position) == (3, 1)


def test_streams_go_on_at_the_default_when_their_version_was_retired_and_their_sessions_moved(versions, client, exported, two):
    for version, name in (("1.0", "two"), ("2.0", "retrained")):
        versions.hosts[version] = HostInMemory("two", make_service(exported(name), store=versions.store, rewarm_steps=60))
    x = two.sequence(9)
    one, other, third = (client.stream("two", name) for name in "abc")
    client.batch([(stream, x[:7]) for stream in (one, other, third)])
    for stream in (one, other, third):  # as after `model_changed`, which they followed before they could be moved
        stream._session.path = "/predictions/two/1.0"
    versions.default = "2.0"
    gone = {"code": 404, "type": "ModelVersionNotFoundException", "message": "no version 1.0"}
    versions.hosts["1.0"] = lambda _: httpx.Response(404, json=gone)
    versions.paths.clear()
    results = [one.step(x[7:8]), *client.batch([(stream, x[7:8]) for stream in (other, third)]), one.step(x[8:])]
    assert {result.model.version for result in results} == {"2.0"}
    assert [result.session.rebuilt for result in results] == ["exact within the tolerance"] * 3 + [None]
    assert versions.paths == ["/predictions/two/1.0", "/predictions/two"] * 2 + ["/predictions/two"]
    assert_close(results[-1].prediction, eager.run(exported("retrained").model, x).prediction, "prediction across the retirement")


def test_a_version_that_was_named_and_is_gone_is_an_error(versions, client, two):
    gone = {"code": 404, "type": "ModelVersionNotFoundException", "message": "no version 1.0"}
    versions.hosts["1.0"] = lambda _: httpx.Response(404, json=gone)
    with pytest.raises(cellstate.ModelNotFound):
        client.stream("two/1.0", "a").step(two.sequence(1))


def test_a_call_of_which_the_time_is_over_tries_no_other_version(versions, two):
    impatient = dataclasses.replace(POLICY, deadline=0.01, first_pause=1.0, uniform=lambda low, high: high)
    with httpx.Client(transport=httpx.MockTransport(versions)) as http:
        client = Client("http://host", policy=POLICY, http=http)
        old, new = client.stream("two", "old", position=0), client.stream("two", "new", position=0)
        client.batch([(old, two.sequence(2))])
        versions.default = "2.0"
        client.batch([(old, two.sequence(1))])
        client._caller = Caller(TokenSource(None), impatient)
        versions.hosts["1.0"].faults.append("unsent")
        versions.paths.clear()
        with pytest.raises(cellstate.DeadlineExceeded):
            client.batch([(old, two.sequence(1)), (new, two.sequence(1))])
        assert versions.paths == ["/predictions/two/1.0"]


def test_rows_that_two_versions_refuse_are_errors(versions, client, two):
    streams = [client.stream("two", name, position=0) for name in "ab"]
    client.batch([(stream, two.sequence(2)) for stream in streams])
    versions.default = "2.0"
    versions.hosts["1.0"] = versions.hosts["2.0"]
    assert {type(result) for result in client.batch([(stream, two.sequence(1)) for stream in streams])} == {cellstate.ModelChanged}

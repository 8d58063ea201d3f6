"""Another tenant's session is absent, whatever is asked of it: nothing of it changes, and nothing in an answer depends on it."""

import itertools

import orjson
import pytest

from handlers import keys
from handlers.keys import Caller, KeyRing
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from handlers.stores.memory import MemoryStore
from tests.conftest import make_service
from tests.support.requests import act, contents, step

TENANTS = ("default", "acme", "rival")
PAIRS = list(itertools.permutations(TENANTS, 2))
KEPT = {"keep_versions": 4, "rewarm_steps": 8}


@pytest.fixture
def texts(tmp_path):
    made = {tenant: keys.generate(Caller(f"{tenant}-key", tenant), 0.0) for tenant in TENANTS}
    (tmp_path / "keys.json").write_bytes(keys.dump(key for _, key in made.values()))
    return {tenant: text for tenant, (text, _) in made.items()}


@pytest.fixture
def serve(two, texts, tmp_path):
    """A front end that asks for keys over a store; by default a new one."""

    def made(store=None, model=two, **settings):
        service = make_service(model, store=store or MemoryStore(), **KEPT, **settings)
        service.frontend = Frontend(service.frontend.service, KeyRing(tmp_path / "keys.json"))
        return service

    return made


@pytest.fixture
def ask(texts):
    """Send documents of `(tenant, document)` as one batch; status and body of each answer."""

    def asked(service, *rows):
        requests = [HttpRequest(orjson.dumps(document), {"x-api-key": texts[tenant]}) for tenant, document in rows]
        return [(response.status, orjson.loads(response.body)) for response in service.frontend.handle_batch(requests)]

    return asked


def live_through(x):
    """A life of sessions that leaves them live, moved, rewound, forked, closed: every phase that a stranger might tell apart."""
    yield step("live", 0, x[:2])
    yield step("live", 2, x[2:3])
    yield act("live", "fork", to="forked")
    yield step("rewound", 0, x[:3])
    yield step("rewound", 3, x[3:4])
    yield {"session": {"id": "rewound", "action": "rewind", "step": 3}}
    yield step("closed", 0, x[:1])
    yield act("closed", "close")


def attacks(x, state):
    """Everything that a request may do to a session, at sessions of that name in every phase, and at what spells another's key."""
    for id in ("live", "rewound", "forked", "closed", "absent", "acme~live", "default~live", "../live"):
        for at in (0, 2, 3, None):
            yield step(id, at, x[:1])
            yield step(id, at, x[:1], commit=False)
        for action in ("describe", "export", "close"):
            yield act(id, action)
        yield act(id, "fork", to="taken")
        yield act("mine", "fork", to=id)
        yield {"session": {"id": id, "action": "rewind", "step": 2}}
        yield {"session": {"id": id, "action": "rewind", "step": 2, "from": 3}, "state": state}
        yield {"session": {"id": id, "action": "import"}, "state": state}
        yield {"instances": [step(id, 3, x[:1]), act(id, "describe"), act(id, "close")]}
        yield from open_inference(id, x)


def open_inference(id, x):
    inputs = {"name": "x", "shape": [1, 1, x.shape[1]], "datatype": "FP32", "data": x[:1].ravel().tolist()}
    for start, end in itertools.product((True, False), repeat=2):
        yield {"inputs": [inputs], "parameters": {"sequence_id": id, "sequence_start": start, "sequence_end": end}}
    for at in (0, 3):
        tensors = [{"name": "session", "shape": [1], "datatype": "BYTES", "data": [id]}]
        tensors.append({"name": "step", "shape": [1], "datatype": "INT64", "data": [at]})
        yield {"inputs": [inputs, *tensors]}


def belonging(store, tenant):
    """The entries of one tenant's sessions."""
    return {key: entry for key, entry in contents(store).items() if _tenant(key) == tenant}


def _tenant(key):
    return key.partition(b"/")[2].rpartition(b"~")[0].decode() or "default"


@pytest.mark.parametrize(("victim", "attacker"), PAIRS)
def test_nothing_that_a_tenant_sends_reaches_or_reveals_anothers_sessions(two, serve, ask, victim, attacker):
    x, shared, empty = two.sequence(8), serve(), serve()
    for document in live_through(x):
        [(status, body)] = ask(shared, (victim, document))
        assert status == 200, body
    [(_, exported)] = ask(shared, (victim, act("live", "export")))
    before = belonging(shared.frontend.service.context.store, victim)
    assert len(before) == 4
    answers = 0
    for document in [step("mine", 0, x[:1]), *attacks(x, exported["state"])]:
        beside, alone = (ask(service, (attacker, document)) for service in (shared, empty))
        assert beside == alone, document
        answers += beside[0][0] == 200
    assert answers > 20, "the attack must be more than refusals"
    assert belonging(shared.frontend.service.context.store, victim) == before


def test_equal_ids_of_three_tenants_are_three_sessions_even_in_one_batch(two, serve, ask):
    service, streams = serve(), {tenant: two.sequence(6, seed) for seed, tenant in enumerate(TENANTS)}
    alone = {tenant: serve() for tenant in TENANTS}
    for n in range(6):
        rows = [(tenant, step("same", n, x[n : n + 1])) for tenant, x in streams.items()]
        together = ask(service, *rows, *rows)  # each again, within the batch
        for (tenant, document), first, again in zip(rows, together, together[len(rows) :], strict=False):
            [(status, expected)] = ask(alone[tenant], (tenant, document))
            assert (status, first[1]["prediction"]) == (200, pytest.approx(expected["prediction"], rel=1e-5))
            assert (again[1]["session"]["replayed"], again[1]["session"]["id"]) == (True, "same")
    assert sorted(contents(service.frontend.service.context.store)) == [b"two/acme~same", b"two/rival~same", b"two/same"]


def test_a_store_from_before_tenants_is_the_default_tenants(two, serve, ask):
    x, store = two.sequence(3), MemoryStore()
    make_service(two, store=store).handle_batch([orjson.dumps(step("old", 0, x[:2]))])
    service = serve(store)
    assert ask(service, ("acme", act("old", "describe")))[0][0] == 404
    [(status, body)] = ask(service, ("default", step("old", 2, x[2:])))
    assert (status, body["session"]["step"]) == (200, 3)


def test_a_record_that_cannot_be_read_is_named_by_the_tenants_own_id(two, serve, ask):
    store = MemoryStore()
    service = serve(store)
    ask(service, ("acme", step("a", 0, two.sequence(1))))
    [key] = contents(store)
    entry = store._entries[key]
    store._entries[key] = type(entry)(entry.version, entry.purge_at, b"junk")
    [(status, body)] = ask(service, ("acme", act("a", "describe")))
    assert (status, body["error"]["details"]) == (503, {"session": "a"})
    assert "acme" not in body["error"]["message"]
    assert ask(service, ("rival", act("a", "describe")))[0][0] == 404


def test_a_tenants_quota_counts_its_own_sessions_and_stops_nobody_else(serve, ask, two):
    service, x = serve(max_sessions_per_tenant=2), two.sequence(1)
    for tenant in ("acme", "rival", "default"):
        assert [status for status, _ in ask(service, *((tenant, step(str(n), 0, x)) for n in range(2)))] == [200, 200]
    for tenant in ("acme", "rival"):
        [(status, body)] = ask(service, (tenant, step("third", 0, x)))
        assert (status, body["error"]["code"], body["error"]["details"]) == (429, "quota_exceeded", {"limit": 2})
        assert f"the tenant {tenant} has 2 sessions of this model (max_sessions_per_tenant)" in body["error"]["message"]
        assert ask(service, (tenant, step("0", 1, x)))[0][0] == 200, "sessions that are there go on"
    assert ask(service, ("default", step("third", 0, x)))[0][0] == 200


def test_requests_and_steps_are_counted_by_tenant(serve, ask, two):
    service = serve()
    ask(
        service,
        ("acme", step("a", 0, two.sequence(3))),
        ("acme", act("nobody", "describe")),
        ("rival", {"inputs": two.sequence(1).tolist()}),
    )
    service.frontend.handle_batch([HttpRequest(b"{}")])
    samples = service.frontend.service.context.telemetry.take()
    found = {(s.labels["tenant"], s.labels.get("outcome")): s.value for s in samples if s.name.startswith("cellstate_tenant_")}
    assert found == {("acme", "ok"): 1, ("acme", "refused"): 1, ("acme", None): 3, ("rival", "ok"): 1, ("other", "refused"): 1}

"""Two servers as on two machines, over one Valkey: one stream, whichever of them a request reaches, and whatever is killed."""

import pytest

from host.torchserve.launcher import serving
from tests.support import valkey_server as valkeys
from tests.support.http_client import Client
from tests.support.served_models import assert_close

STEPS = 24


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with valkeys.serving(tmp_path_factory.mktemp("valkey"), requirepass="sword@fish", **valkeys.ALWAYS) as server:
        yield server


@pytest.fixture(scope="module")
def servers(shared, lone_store, tmp_path_factory):
    environment = {"CELLSTATE_STORE": f"valkey://:sword%40fish@127.0.0.1:{shared.port}/0"}
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    with serving(folders[0], lone_store, environment=environment) as one, serving(folders[1], lone_store, environment=environment) as other:
        yield one, other


def test_a_stream_goes_on_over_both_servers_and_over_the_loss_of_the_store(zoo, servers, shared, session):
    model = zoo["one"]
    x = model.inputs(STEPS, seed=7)
    with Client(servers[0], "one") as one, Client(servers[1], "one") as other:
        clients = (one, other)
        for n in range(STEPS):
            request = {"inputs": [x[n]], "session": {"id": session, "step": n}}
            if n == STEPS // 2:
                shared.kill()
                for client in clients:
                    answer = client.send(**request)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
                    assert client.send(inputs=[x[n]]).status_code == 200, "who needs no session is served"
                shared.start()
            answer = clients[n % 2].send(**request)
            assert answer.status_code == 200, answer.text
            assert answer.json()["session"]["step"] == n + 1
        again = clients[STEPS % 2].send(**request).json()
        assert again["session"]["replayed"]
    assert_close(again["prediction"], model.run(x).y[-1], f"prediction after {STEPS} steps")


def test_the_password_is_in_no_log(servers):
    for server in servers:
        log = server.log.read_text()
        assert '"store": "valkey://:***@127.0.0.1:' in log
        assert "sword" not in log

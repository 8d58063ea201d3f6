"""Both clients of the client library, over the real service core and without a network."""

import asyncio

import httpx
import pytest

from cellstate import AsyncClient, Client
from tests.conftest import make_service
from tests.support.clients import POLICY, Blocking
from tests.support.host_in_memory import HostInMemory


@pytest.fixture
def host(two):
    return HostInMemory("two", make_service(two, keep_versions=3))


@pytest.fixture(params=["sync", "async"])
def client(request, host):
    """One of the clients, talking to `host`."""
    if request.param == "sync":
        with httpx.Client(transport=host.transport) as http:
            yield Client("http://cellstate.test/", policy=POLICY, http=http)
        return
    with asyncio.Runner() as runner:
        http = httpx.AsyncClient(transport=host.transport)
        yield Blocking(AsyncClient("http://cellstate.test", policy=POLICY, http=http), runner.get_loop())
        runner.run(http.aclose())

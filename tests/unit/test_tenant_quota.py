"""How often a tenant's sessions are counted, and how many may come between two counts."""

from contextlib import suppress

import pytest

from handlers.errors import QuotaExceeded
from handlers.metrics import MAX_TENANTS, OTHER, Telemetry
from handlers.sessions.tenant_quota import MAX_AGE, MAX_AGE_FULL, TenantQuota
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock
from tests.support.store_wrappers import Wrapped


class Counted(Wrapped):
    """A store in which a tenant has so many sessions, that counts how often it is asked."""

    def __init__(self, entries):
        super().__init__(MemoryStore())
        self.entries, self.looks, self.prefixes = entries, 0, set()

    def count(self, prefix, limit):
        self.looks += 1
        self.prefixes.add(prefix)
        return min(self.entries, limit)


def admitted(quota, tries, tenant="acme"):
    count = 0
    for _ in range(tries):
        with suppress(QuotaExceeded):
            quota.admit(tenant)
            count += 1
    return count


@pytest.mark.parametrize(("limit", "tenant"), [(0, "acme"), (10, "default")])
def test_without_a_quota_and_for_the_default_tenant_nothing_is_counted(limit, tenant):
    store = Counted(10)
    assert admitted(TenantQuota(store, "two", limit), 20, tenant) == 20
    assert store.looks == 0


def test_far_from_its_quota_a_tenant_is_counted_now_and_then():
    store, clock = Counted(10), Clock()
    quota = TenantQuota(store, "two", 10_000, clock)
    for looks in range(1, 4):
        assert admitted(quota, 100) == 100
        assert store.looks == looks
        clock.now += MAX_AGE
    assert store.prefixes == {b"two/acme~"}


def test_near_its_quota_a_tenant_is_counted_for_each_session():
    store = Counted(96)
    quota = TenantQuota(store, "two", 100, Clock())
    assert admitted(quota, 2) == 2
    store.entries = 100
    assert admitted(quota, 5) == 0


def test_at_its_quota_a_tenant_is_counted_once_a_second():
    store, clock = Counted(100), Clock()
    quota = TenantQuota(store, "two", 100, clock)
    assert admitted(quota, 50) == 0
    assert store.looks == 1
    store.entries, clock.now = 99, clock.now + MAX_AGE_FULL
    assert admitted(quota, 5) == 1


def test_sessions_that_are_not_committed_yet_count():
    quota = TenantQuota(Counted(98), "two", 100, Clock())
    quota.admit("acme", uncommitted=1)
    with pytest.raises(QuotaExceeded):
        quota.admit("acme", uncommitted=2)


def test_tenants_beyond_a_hundred_share_a_label():
    telemetry = Telemetry()
    labels = {telemetry.tenant_label(f"t{n}") for n in range(MAX_TENANTS + 50)}
    assert len(labels) == MAX_TENANTS + 1
    assert OTHER in labels
    assert telemetry.tenant_label("t0") == "t0"
    assert telemetry.tenant_label("") == OTHER

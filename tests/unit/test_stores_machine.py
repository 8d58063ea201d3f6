"""Every kind of store against a dictionary: whatever is done in whatever order, both say the same."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from handlers.stores.base import Change, Entry
from tests.support.store_kinds import FAR

KEYS = [b"a/1", b"a/2", b"a/22", b"b/1", b"b/\xff"]
times = st.integers(0, 10).map(lambda n: FAR + n / 2)
entries = st.builds(Entry, st.integers(1, 2**63 - 1), times, st.binary(max_size=30))
choices = st.dictionaries(st.sampled_from(KEYS), st.tuples(st.sampled_from(["right", "none", "wrong"]), entries), max_size=len(KEYS))


class StoreMachine(RuleBasedStateMachine):
    """`expected` is the dictionary; a key past its purge time may or may not be in the store, so it leaves both by a sweep."""

    def __init__(self, kind):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.kind = kind
        self.store = kind.open(Path(self.folder.name))
        self.expected = {}

    def teardown(self):
        self.store.close()
        self.folder.cleanup()

    def version(self, key, claim):
        stored = self.expected[key].version if key in self.expected else None
        return {"right": stored, "none": None, "wrong": (stored or 0) % (2**63 - 1) + 1}[claim]

    @rule(asked=choices)
    def commit(self, asked):
        changes = [Change(key, self.version(key, claim), entry) for key, (claim, entry) in asked.items()]
        stored = {key: entry.version for key, entry in self.expected.items()}
        applies = [stored.get(change.key) == change.expected for change in changes]
        assert self.store.commit_many(changes) == applies
        self.expected |= {change.key: change.entry for change, applied in zip(changes, applies, strict=True) if applied}

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=6))
    def read(self, keys):
        assert self.store.get_many(keys) == [self.expected.get(key) for key in keys]

    @rule(now=times, limit=st.integers(1, 6))
    def sweep(self, now, limit):
        removed = self.store.sweep(now, limit).removed
        left = dict(self.store.scan(b""))
        gone = self.expected.keys() - left.keys()
        assert len(gone) == len(removed) <= limit
        assert sorted(removed) == sorted(self.expected[key].value for key in gone)
        assert all(self.expected[key].purge_at < now for key in gone)
        self.expected = {key: entry for key, entry in self.expected.items() if key not in gone}

    @rule(prefix=st.sampled_from([b"", b"a", b"a/2", b"b/", b"c", b"b/\xff"]), after=st.sampled_from([b"", *KEYS]))
    def scan(self, prefix, after):
        assert list(self.store.scan(prefix, after)) == sorted(
            (k, e) for k, e in self.expected.items() if k.startswith(prefix) and k > after
        )

    @precondition(lambda self: self.kind.durable)
    @rule()
    def open_again(self):
        self.store.close()
        self.store = self.kind.open(Path(self.folder.name))

    @invariant()
    def both_hold_the_same(self):
        assert dict(self.store.scan(b"")) == self.expected
        assert self.store.check() == []
        assert self.store.usage().entries == len(self.expected)


def test_a_store_is_a_dictionary_that_compares_before_it_sets(kind):
    run_state_machine_as_test(lambda: StoreMachine(kind), settings=settings(max_examples=40, stateful_step_count=25))

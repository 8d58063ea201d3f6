"""A worker killed, kill -9, between any two of read, run, commit and reply: who sends the same steps again is where the offline run is."""

import itertools
import multiprocessing
import os
import signal
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores import lmdb as embedded
from handlers.stores import valkey
from tests.conftest import Clock, ask, assert_close, make_service
from tests.support import eager
from tests.support.in_process import InProcess
from tests.support.requests import act, step
from tests.support.store_kinds import KINDS
from tests.support.store_wrappers import Wrapped

SPAWN = multiprocessing.get_context("spawn")
IDS = ("a", "b", "c")
BEFORE_READ, AFTER_READ, AFTER_RUN, AMID_COMMIT, BEFORE_REPLY = (
    "before the read",
    "after it",
    "after the run",
    "amid the commit",
    "before the reply",
)
POINTS = (BEFORE_READ, AFTER_READ, AFTER_RUN, AMID_COMMIT, BEFORE_REPLY)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Wrapped):
    """Ends its process at one point."""

    def __init__(self, store, point):
        super().__init__(store)
        self.point = point

    def get_many(self, keys):
        return self._around(BEFORE_READ, AFTER_READ, lambda: super(Deadly, self).get_many(keys))

    def commit_many(self, changes):
        return self._around(AFTER_RUN, BEFORE_REPLY, lambda: super(Deadly, self).commit_many(changes))

    def _around(self, before, after, work):
        if self.point == before:
            die()
        result = work()
        if self.point == after:
            die()
        return result


def worker(folder: Path, kind: str, place: Path, point: str, bodies: list[bytes]) -> None:
    """Serve one batch as a worker does, as far as it comes."""
    signature, settings = Signature.load(folder / "signature.json"), Settings(device="cpu", store="memory://", keep_versions=2)
    if point == AMID_COMMIT:
        version, seen = embedded._version, itertools.count()
        embedded._version = lambda value: (
            die() if next(seen) else version(value)
        )  # the first record is in the transaction, the others are not
        valkey._reply = die  # all was sent, and nothing heard
    store = Deadly(KINDS[kind].open(place), point)
    InProcess(ServiceContext(open_backend(folder, signature, settings), signature, store, settings), Clock()).handle_batch(bodies)


@pytest.mark.parametrize("point", POINTS)
def test_steps_forks_and_rewinds_that_a_kill_cut_off_are_done_once_when_they_are_sent_again(two, durable, tmp_path, point):
    with closing(KINDS[durable].open(tmp_path)) as store:
        service = make_service(two, store=store, keep_versions=2)
        x = {id: two.sequence(4, seed) for seed, id in enumerate(IDS)}
        ask(service, *(step(id, 0, x[id][:1]) for id in IDS))
        ask(service, *(step(id, 1, x[id][1:2]) for id in IDS))
        requests = [
            step("a", 2, x["a"][2:3], **{"return": ["prediction", "h_n"]}),
            act("b", "fork", to="d"),
            {"session": {"id": "c", "action": "rewind", "step": 1, "from": 2}},
        ]
        bodies = [orjson.dumps(request) for request in requests]
        process = SPAWN.Process(target=worker, args=(two.folder, durable, tmp_path, point, bodies))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        for _ in range(2):  # the second time they are repeats
            replies = ask(service, *requests)
            assert [status for status, _ in replies] == [200] * 3, replies
            one, fork, back = (reply for _, reply in replies)
            assert [reply["session"]["step"] for reply in (one, fork, back)] == [3, 2, 1]
            assert_close(one["h_n"], eager.run(two.model, x["a"][:3]).h_n, f"h_n of the step, killed {point}")
        assert all(reply["session"]["replayed"] for reply in (one, fork, back))
        follow = {"a": (3, x["a"][:3]), "b": (2, x["b"][:2]), "c": (1, x["c"][:1]), "d": (2, x["b"][:2])}
        replies = ask(service, *(step(id, at, x["a"][3:], **{"return": ["c_n"]}) for id, (at, _) in follow.items()))
        for (id, (_, before)), (status, reply) in zip(follow.items(), replies, strict=True):
            assert status == 200, reply
            whole = eager.run(two.model, [*before, *x["a"][3:]])
            assert_close(reply["c_n"], whole.c_n, f"c_n of {id}, killed {point}")
        assert store.check() == []

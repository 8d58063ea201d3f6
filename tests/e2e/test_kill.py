"""kill -9: a step acknowledged is a step applied exactly once, whatever dies, and a caller who sends the same step again carries on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from handlers.sessions.record import Record
from handlers.settings import Settings
from handlers.stores.lmdb import EmbeddedStore
from host.torchserve.launcher import TorchServe
from tests.support.served_models import Model
from tests.support.streams import Stream, all_advance, flowing, kill_worker

pytestmark = pytest.mark.e2e
HORIZON = 150  # steps of forecast with every request: the worker is busy while the kill comes


def strike(streams: Sequence[Stream], kill: Callable[[], None]) -> bool:
    """Kill in mid-stream, wait for every stream to go on; whether the kill met a request in flight."""
    all_advance(streams, 5)
    before = sum(stream.unanswered for stream in streams)
    kill()
    all_advance(streams, 5)
    return sum(stream.unanswered for stream in streams) > before


def test_streams_survive_their_worker_killed_ten_times_while_it_serves_them(
    served: TorchServe, zoo: dict[str, Model], session: str
) -> None:
    streams = [Stream(served, zoo["one"], f"{session}-{i}", seed=60 + i, horizon=HORIZON) for i in range(5)]
    struck = 0
    with flowing(streams):
        while struck < 10:
            struck += strike(streams, lambda: kill_worker(served, "one"))
    for stream in streams:
        stream.check()
        stream.close()


def test_streams_survive_the_whole_server_killed_three_times(pair_store: Path, zoo: dict[str, Model], session: str, tmp_path: Path) -> None:
    server = TorchServe(tmp_path, pair_store).start()
    try:
        streams = [Stream(server, zoo["two"], f"{session}-{i}", seed=70 + i, horizon=HORIZON) for i in range(6)]

        def kill() -> None:
            server.kill()
            server.start()

        with flowing(streams):
            struck = [strike(streams, kill) for _ in range(3)]
        assert all(struck), f"a kill met no request in flight: {struck}"
        for stream in streams:
            stream.check()
            stream.close()
    finally:
        server.stop()
    assert positions(tmp_path / "sessions") == {f"two/{stream.id}": stream.position for stream in streams}


def positions(folder: Path) -> dict[str, int]:
    """The position of every session that the store on disk holds, once the store has found itself sound."""
    store = EmbeddedStore(str(folder), Settings().store_bytes)
    try:
        assert store.check() == []
        return {key.decode(): Record.decode(entry.value).state.position for key, entry in store.scan(b"")}
    finally:
        store.close()

"""Any cut of a sequence into requests gives what the whole sequence gives, on every backend."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Connect
from tests.support.served_models import Json, Model, assert_close

pytestmark = pytest.mark.e2e
STEPS = 180
EVERYTHING = ["prediction", "output", "h_n", "c_n", "state"]
Send = Callable[[list[Json], int, dict[str, Any] | None], dict[str, Any]]  # steps, position, the answer before -> answer


def cuts(seed: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each request: mostly short, now and then long."""
    rng, start = np.random.default_rng(seed), 0
    while start < STEPS:
        stop = min(STEPS, start + int(rng.integers(1, 40 if rng.random() < 0.2 else 4)))
        yield start, stop
        start = stop


def assert_equals_the_whole(model: Model, seed: int, send: Send) -> None:
    inputs = model.inputs(STEPS, seed)
    whole = model.run(inputs)
    answer, outputs = None, []
    for start, stop in cuts(seed):
        answer = send(inputs[start:stop], start, answer)
        assert_close(answer["prediction"], whole.y[stop - 1], f"prediction after step {stop}")
        outputs += answer["output"]
    assert answer is not None
    assert_close(outputs, whole.output, "output of all pieces")
    assert_close(answer["h_n"], whole.h_n, "h_n after the last piece")
    assert_close(answer["c_n"], whole.c_n, "c_n after the last piece")
    assert_close(answer["prediction"], model.whole(inputs), "the last prediction, against the model's own forward")


@pytest.mark.parametrize("seed", [81, 82, 83])
@pytest.mark.parametrize("name", ["two", "projected", "words"])
def test_a_session_fed_in_pieces_equals_the_whole(
    either: TorchServe, zoo: dict[str, Model], connect: Connect, session: str, name: str, seed: int
) -> None:
    client = connect(either, name)

    def send(steps: list[Json], position: int, before: dict[str, Any] | None) -> dict[str, Any]:
        return client.ask(inputs=steps, session={"id": session, "step": position}, **{"return": EVERYTHING})

    assert_equals_the_whole(zoo[name], seed, send)
    assert client.position(session) == STEPS


@pytest.mark.parametrize("form", ["arrays", "opaque"])
@pytest.mark.parametrize("name", ["two", "projected", "words"])
def test_pieces_joined_by_a_state_that_the_client_holds_equal_the_whole(
    either: TorchServe, zoo: dict[str, Model], connect: Connect, name: str, form: str
) -> None:
    client = connect(either, name)

    def send(steps: list[Json], position: int, before: dict[str, Any] | None) -> dict[str, Any]:
        state = {} if before is None else {"state": before["state"] if form == "opaque" else {n: before[n] for n in ("h_n", "c_n")}}
        return client.ask(inputs=steps, **state, **{"return": EVERYTHING})

    assert_equals_the_whole(zoo[name], 84, send)


def test_many_sessions_in_one_body_neither_mix_nor_depend_on_their_neighbours(
    either: TorchServe, zoo: dict[str, Model], connect: Connect, session: str
) -> None:
    """Ragged rows share a batch: each row's answer is that of its own sequence alone."""
    client, model, rng = connect(either, "two"), zoo["two"], np.random.default_rng(85)
    inputs = [model.inputs(300, seed=850 + i) for i in range(12)]
    at = [0] * len(inputs)
    for _ in range(8):
        lengths = [int(n) for n in rng.integers(1, 30, size=len(inputs))]
        rows = [
            {"inputs": x[start : start + n], "session": {"id": f"{session}-{i}", "step": start}, "return": ["prediction", "h_n"]}
            for i, (x, start, n) in enumerate(zip(inputs, at, lengths, strict=True))
        ]
        at = [start + n for start, n in zip(at, lengths, strict=True)]
        for i, answer in enumerate(client.ask(instances=rows)["predictions"]):
            whole = model.run(inputs[i][: at[i]])
            assert answer["session"]["step"] == at[i]
            assert_close(answer["prediction"], whole.y[-1], f"session {i} after step {at[i]}")
            assert_close(answer["h_n"], whole.h_n, f"h_n of session {i} after step {at[i]}")


def test_rows_of_one_session_in_one_body_run_in_their_order(
    either: TorchServe, zoo: dict[str, Model], connect: Connect, session: str
) -> None:
    model = zoo["two"]
    inputs = model.inputs(10, seed=86)
    rows = [{"inputs": [row], "session": {"id": session, "step": i}} for i, row in enumerate(inputs)]
    answers = connect(either, "two").ask(instances=rows)["predictions"]
    assert_close([answer["prediction"] for answer in answers], model.run(inputs).y, "ten steps in one body")

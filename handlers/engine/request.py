"""Requests and results as every protocol has them: names and arrays, no protocol's encoding."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from msgspec import Struct

from handlers.arrays import Array, Floats
from handlers.forecasting.intervals import Interval
from handlers.forecasting.observations import Times
from handlers.sessions import state as state_format
from handlers.sessions.reference import Action, AnyRef
from handlers.sessions.state import State
from handlers.sessions.status import SessionStatus

OPAQUE = "state"  # in `returns`: the whole state, as a client may hold it
PREDICTION, PREDICTION_ALONE = "prediction", ("prediction",)
LABEL, PROBABILITIES = "label", "probabilities"  # in `returns`, of a classifier; a label is the number of its class in a result
ALL_OUTPUTS, SAMPLES = "parameters", "samples"  # in `returns`, of a model of distributions: its outputs, and the sampled paths
BOUND, SIDES = "bound.", ("lower", "upper")  # in a recorded answer: the names of intervals
BLAKE2B = hashlib.blake2b(digest_size=16)
IMPUTED = "imputed"  # in a recorded answer: how many values were imputed
MAKER = "maker."  # in a recorded answer of a session that was moved since: the name of an empty array that tells which model made it


class Request(Struct):
    """One request, checked against the model's signature and the limits.

    `inputs` is `[T, F]` float32 or `[T]` int64 token ids, None for an action. NaN stands for a measurement that is missing, and `missing`
    counts those. Inputs that are observations have `times`, and zeros in the columns that the service derives from the times. `returns`
    names what is to be answered, in order. `future` is `[horizon, K]`, beside observations without the derived columns; it is None where
    the client knows no input in advance.
    """

    inputs: Array | None = None
    returns: tuple[str, ...] = PREDICTION_ALONE
    state: State | None = None
    session: AnyRef | None = None
    horizon: int = 0
    future: Floats | None = None
    commit: bool = True
    close: bool = False  # end the session after the step
    missing: int = 0  # NaN among the inputs
    levels: tuple[int, ...] = ()  # of the forecast's intervals, in percent, in the order of the answer
    paths: int = 0  # along which the forecast of a model of distributions is sampled; 0 where neither levels nor samples are asked for
    is_usual_step: bool = False  # a step of a session: inputs or observations, none missing, an id, perhaps step and generation; no more
    times: Times | None = None  # [T, 2], the first and last reading of each input's time, where the inputs are observations

    @property
    def steps(self) -> int:
        """Time steps in `inputs`."""
        return 0 if self.inputs is None else len(self.inputs)

    def request_hash(self) -> bytes:
        """Return 16 bytes that are equal for a request and its retry, and for no other request.

        Left out are what names the session (a hash is compared within one session), `step`, `generation` and `restart` of a step (the
        session's rules compare them), `commit`, `close`, and `missing`, which the inputs tell.
        For a fork, import or rewind nothing but the fork's target is left out.
        """
        if self.is_usual_step and self.inputs is not None:
            if self.times is None:
                usual = _usual_head(self.inputs.nbytes).copy()
                usual.update(self.inputs.data)
            else:
                usual = _usual_head(self.inputs.nbytes, self.times.nbytes).copy()
                usual.update(self.inputs.data)
                usual.update(self.times.data)
            return usual.digest()
        head = _step_head(self.returns, self.horizon, self.levels, self.paths)
        ref = self.session
        if ref is not None and ref.action is not Action.STEP:
            head += f"|{ref.action}|{ref.id}|{ref.step}|{ref.from_step}".encode()
            head += b"" if ref.generation is None else f"|{ref.generation}".encode()
        parts = [head] if self.inputs is None else [head, self.inputs.tobytes()]
        if self.times is not None:
            parts.append(self.times.tobytes())
        if self.future is not None:
            parts.append(self.future.tobytes())
        if self.state is not None:
            parts.append(state_format.pack(self.state))
        digest = BLAKE2B.copy()  # faster than a new one
        digest.update(_lengths(*map(len, parts)) + b"".join(parts))
        return digest.digest()


@lru_cache(maxsize=256)
def _lengths(*lengths: int) -> bytes:
    return struct.pack(f"<{len(lengths)}Q", *lengths)


@lru_cache(maxsize=256)
def _usual_head(*sizes: int) -> hashlib.blake2b:
    """Return the digest of what stands before the inputs, and perhaps times, of a usual step, which are of so many bytes."""
    head = _step_head(PREDICTION_ALONE, 0, (), 0)
    digest = BLAKE2B.copy()
    digest.update(_lengths(len(head), *sizes) + head)
    return digest


@lru_cache(maxsize=256)
def _step_head(returns: tuple[str, ...], horizon: int, levels: tuple[int, ...], paths: int) -> bytes:
    head = f"{returns}|{horizon}|{levels}" if levels else f"{returns}|{horizon}"
    return (f"{head}|paths {paths}" if paths else head).encode()


class Result(Struct):
    """What a request is answered with. `version` is the version of the model that computed the arrays."""

    version: str
    arrays: Mapping[str, Floats]  # by name, in the order of the answer
    state: State | None = None  # where the opaque state was asked for
    session: SessionStatus | None = None
    times: Sequence[str] = ()  # of the forecast, or of the prediction, where the stream has times
    imputed: int = 0  # missing values of the inputs that predictions stood in for
    intervals: Mapping[int, Interval] = {}  # of the forecast, by level


class StepResults(Struct):
    """What many steps of sessions are answered with, the columns of as many results."""

    version: str
    ids: Sequence[str]
    predictions: Floats  # [B, O], or [B, T, O] per step
    steps: Sequence[int]  # the positions after the steps
    generations: Sequence[int]
    expires_at: float
    times: Sequence[str] = ()  # of the predictions, empty where a stream has none; nothing of a model without a calendar

    def status(self, i: int) -> SessionStatus:
        """Return where the session of step i is."""
        return SessionStatus(self.ids[i], self.steps[i], self.expires_at, self.generations[i])

    def result(self, i: int) -> Result:
        """Return the result of step i."""
        times = self.times[i : i + 1]
        return Result(self.version, {PREDICTION: self.predictions[i]}, session=self.status(i), times=times if any(times) else ())


def interval_arrays(intervals: Mapping[int, Interval]) -> dict[str, Floats]:
    """Return intervals as arrays by name, for a record."""
    return {f"{BOUND}{side}.{level}": bound for level, pair in intervals.items() for side, bound in zip(SIDES, pair, strict=True)}


def take_intervals(arrays: dict[str, Floats]) -> dict[int, Interval]:
    """Take the intervals out of the arrays of a record."""
    levels = [int(name.rpartition(".")[2]) for name in arrays if name.startswith(f"{BOUND}{SIDES[0]}.")]
    return {level: (arrays.pop(f"{BOUND}{SIDES[0]}.{level}"), arrays.pop(f"{BOUND}{SIDES[1]}.{level}")) for level in levels}


def maker_array(version: str, digest: bytes) -> dict[str, Floats]:
    """Return which model made an answer as an array by name, for a record."""
    return {f"{MAKER}{digest.hex()}.{version}": np.empty(0, np.float32)}


def take_maker(arrays: dict[str, Floats]) -> tuple[str, bytes] | None:
    """Take the version and the digest of the model that made an answer out of the arrays of a record; None where they are the record's."""
    for name in arrays:
        if name.startswith(MAKER):
            digest, _, version = name.removeprefix(MAKER).partition(".")
            del arrays[name]
            return version, bytes.fromhex(digest)
    return None

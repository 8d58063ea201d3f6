"""Decides which recent inputs the sessions of a model keep, and rebuilds inputs from them when another version made a session's state."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from handlers.arrays import Array
from handlers.errors import ConfigurationError
from handlers.forecasting.observations import Timeline
from handlers.sessions.recent import UNKNOWN as NO_LAYOUT
from handlers.sessions.recent import Recent, empty, layout
from handlers.settings import Settings
from handlers.signature import Signature

MARGIN = 4  # by a quarter of its memory more is kept, for a next version that remembers a little longer
MAX_FEATURES = 2**16 - 1  # whose inputs a session can keep
EXACT, UNKNOWN = "exact within the tolerance", "unknown"
Columns = tuple[int, ...]


@dataclass(frozen=True)
class Rewarming:
    """The inputs that a session keeps: the last `steps`, of them the columns `kept`; none where `steps` is 0, for the reason `off`.

    `needed` are as many as a state of this model is rebuilt from, unless the stream is shorter.

    Columns that follow from the time are left out where all columns would be larger than the state. Such inputs are kept of a stream
    whose times are known.
    """

    signature: Signature
    timeline: Timeline | None
    steps: int
    needed: int
    kept: Columns
    off: str = ""

    @classmethod
    def of(cls, signature: Signature, timeline: Timeline | None, settings: Settings) -> "Rewarming":
        """Return what is kept for a model.

        Raises:
            ConfigurationError: the model has more features than a session can keep.
        """
        every, steps = tuple(range(len(signature.features))), settings.rewarm_steps
        if isinstance(steps, int):
            if steps and len(every) > MAX_FEATURES:
                raise ConfigurationError(
                    f"rewarm_steps: a session keeps inputs of up to {MAX_FEATURES} features, this model has {len(every)}"
                )
            return cls(signature, timeline, steps, steps, every, "" if steps else "rewarm_steps is 0")
        return cls._automatic(signature, timeline, every)

    @classmethod
    def _automatic(cls, signature: Signature, timeline: Timeline | None, every: Columns) -> "Rewarming":
        steps = signature.memory_steps
        if not signature.streaming:
            return cls(signature, timeline, 0, 0, (), "the model keeps no state")
        if steps is None:
            why = f"its memory is longer than {signature.memory['limit']} steps" if signature.memory else "its memory was not measured"
            return cls(signature, timeline, 0, 0, (), why)
        state = 4 * signature.state_length
        for kept in (every, _given(timeline, every)):
            row = 4 * len(kept) if every else 8
            if row and steps * row <= state and len(kept) <= MAX_FEATURES:
                return cls(signature, timeline, min(steps + -(-steps // MARGIN), state // row), steps, kept)
        return cls(signature, timeline, 0, 0, (), f"{steps} inputs take {steps * row:,} bytes, more than its state ({state:,})")

    @cached_property
    def layouts(self) -> dict[bytes, Columns]:
        """The recent inputs that the model can run, of whichever version they are: their columns by layout."""
        every = tuple(range(len(self.signature.features)))
        return {self._layout(columns): columns for columns in (every, _given(self.timeline, every))}

    @cached_property
    def layout(self) -> bytes:
        """Which inputs the columns that are kept are."""
        return self._layout(self.kept)

    def _layout(self, columns: Columns) -> bytes:
        names = [self.signature.features[i] for i in columns] or [f"{self.signature.vocabulary} ids"]
        return layout(names, self.signature.frequency)

    @cached_property
    def needs_times(self) -> bool:
        """Whether some columns are left out, which only times tell."""
        return len(self.kept) < len(self.signature.features)

    def begun(self, begins: bool) -> Recent | None:
        """Return the recent inputs of a stream of which no input is known; None where none are kept.

        `begins` is whether the stream is at its start, as new ones begin.
        """
        return self._empty(begins) if self.steps else None

    def _empty(self, begins: bool) -> Recent:
        return empty(self.steps, len(self.kept), self.layout, begins)

    def after(self, before: Recent | None, inputs: Array, is_timed: bool) -> Recent | None:
        """Return the recent inputs after `inputs`, `[T, F]` or `[T]`; None where none are kept.

        `before` are those before them, as far as they are known. `is_timed` is whether the inputs are observations, from whose times the
        columns that are left out follow.
        """
        if not self.steps or (self.needs_times and not is_timed):
            return None
        if before is None or before.layout != self.layout or before.room != self.steps:
            before = self._own(before)
        return before.followed_by(inputs.take(self.kept, axis=1) if self.needs_times else inputs)

    def again(self, before: Recent, inputs: Array, is_timed: bool) -> Recent | None:
        """Return the recent inputs after `inputs` that began with those `before`, which ran again to rebuild the state."""
        if self.needs_times and before.layout != self.layout:  # whether their columns follow from times is not known
            return self.after(None, inputs[before.known :], is_timed)
        return self.after(self.begun(before.begins), inputs, is_timed)

    def _own(self, before: Recent | None) -> Recent:
        """Return recent inputs as this model keeps them: of those that another setting or release kept, what there are."""
        if before is None or before.columns != len(self.kept) or before.layout not in (self.layout, NO_LAYOUT):
            return self._empty(begins=False)
        return self._empty(before.begins).followed_by(before.inputs)

    def inputs(self, recent: Recent, time: int | None) -> Array:
        """Return recent inputs as the model takes them, `[known, F]` or `[known]`. `time` is that of the last one."""
        columns = self.layouts.get(recent.layout)
        if columns is None or len(columns) == len(self.signature.features):
            return recent.inputs
        assert self.timeline is not None  # it leaves out the columns
        assert time is not None  # such inputs are kept where times are known
        rows = np.empty((recent.known, len(self.signature.features)), np.float32)
        rows[:, columns] = recent.inputs
        times = [time - ago * self.timeline.calendar.step for ago in range(recent.known - 1, -1, -1)]
        rows[:, self.timeline.derived] = self.timeline.calendar.features(times)
        return rows

    def closeness(self, recent: Recent) -> str:
        """Say how close a state is that is rebuilt from these inputs to the one that the whole stream would have led to."""
        steps = self.signature.memory_steps
        if recent.begins or (steps is not None and recent.known >= steps):
            return EXACT
        measured = self.signature.agreement(recent.known)
        return UNKNOWN if measured is None else f"within {measured:g}"

    def described(self, recent: Recent | None) -> str:
        """Say what a session keeps."""
        if not self.steps:
            return f"off: {self.off}"
        if recent is None:
            return f"0 of {self.steps} inputs{'; only observations, which have times, are kept' if self.needs_times else ''}"
        return f"{recent.known} of {self.steps} inputs{', all there were' if recent.begins else ''}"


def _given(timeline: Timeline | None, every: Columns) -> Columns:
    """Return the columns that do not follow from the time."""
    return every if timeline is None else tuple(i for i in every if i not in timeline.derived)

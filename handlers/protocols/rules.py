"""What a request may ask of a model, whatever the protocol: the signature's shapes and the configured limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from handlers.arrays import Floats
from handlers.engine.request import ALL_OUTPUTS, LABEL, OPAQUE, PROBABILITIES, SAMPLES, Request
from handlers.errors import InvalidInput, TooLarge
from handlers.forecasting.intervals import MAX_LEVEL, MIN_LEVEL
from handlers.forecasting.observations import Timeline
from handlers.protocols.validation import join_names
from handlers.sessions.reference import Action, AnyRef
from handlers.settings import Settings
from handlers.signature import Signature

MAX_LEVELS = 20
PATHS = 200  # sampled where a request does not say how many


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What the exporter found a feature to be: values outside it were never measured, or index no row of a table."""

    column: int
    feature: str
    expected: str  # for the message
    min_value: float = -math.inf
    max_value: float = math.inf
    whole: bool = False

    def check(self, values: Floats, where: str, column: int) -> None:
        """Check the values `[T]` of the feature, which stands in that column of the array. A missing value is NaN, and passes."""
        wrong = (values < self.min_value) | (values > self.max_value)
        if self.whole:
            wrong |= (values != np.round(values)) & ~np.isnan(values)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise InvalidInput(f"{where}[{i}][{column}]: expected {self.expected} for {self.feature}, got {values[i]:.9g}")


def column_rules(signature: Signature) -> tuple[ColumnRule, ...]:
    """Return the rules for the features of which the signature says more than that they are numbers."""
    at = {feature: column for column, feature in enumerate(signature.features)}
    limit = signature.MAX_INTEGER
    rules = [ColumnRule(at[f], f, f"an id from 0 to {rows - 1}", 0, rows - 1, whole=True) for f, rows in signature.ids.items()]
    bounded = {*signature.ids, *signature.ranges}
    rules += [
        ColumnRule(at[f], f, f"an integer from {least} to {most}", least, most, True) for f, (least, most) in signature.ranges.items()
    ]
    rules += [ColumnRule(at[f], f, f"an integer within ±{limit}", -limit, limit, True) for f in signature.integers if f not in bounded]
    rules += [ColumnRule(at[f], f, "no negative number, as none was measured", min_value=0) for f in signature.nonnegative]
    rules += [ColumnRule(at[f], f, "no positive number, as none was measured", max_value=0) for f in signature.nonpositive]
    return tuple(rules)


@dataclass(frozen=True)
class RequestRules:
    """The rules for one model under one set of limits. Every check raises a RequestError that names field, value, limit and remedy."""

    signature: Signature
    limits: Settings

    @cached_property
    def columns(self) -> tuple[ColumnRule, ...]:
        """The rules for single features."""
        return column_rules(self.signature)

    @cached_property
    def known_beside_times(self) -> tuple[int, ...]:
        """The feature columns of `future` beside observations: those that neither feed back nor are derived from the time."""
        timeline = Timeline.of(self.signature)
        return () if timeline is None else timeline.given

    @property
    def returns(self) -> tuple[str, ...]:
        """What may be asked for, in the order of the answer."""
        own = (LABEL, PROBABILITIES) if self.signature.labels else (ALL_OUTPUTS, SAMPLES) if self.signature.distribution else ()
        return ("prediction", *own, "output", *(entry.output for entry in self.signature.state), OPAQUE)

    def shape(self) -> str:
        """Describe the inputs that the model takes."""
        if self.signature.tokens:
            return f"a list of T token ids from 0 to {self.signature.vocabulary - 1}"
        return f"T lists of {len(self.signature.features)} numbers ({join_names(self.signature.features)})"

    def check_body(self, size: int) -> None:
        """Check the size of a body, in bytes."""
        if size > self.limits.max_body:
            raise TooLarge(f"body: {size} bytes, at most {self.limits.max_body}: send fewer steps or instances at a time")

    def check_instances(self, count: int) -> None:
        """Check how many requests one body holds."""
        if count > self.limits.max_instances:
            raise TooLarge(f"instances: {count}, at most {self.limits.max_instances} in one body: send several")

    def check_steps(self, steps: int) -> None:
        """Check the number of time steps, before any memory is taken for them."""
        if steps > self.limits.max_steps:
            raise TooLarge(f"inputs: {steps} steps, at most {self.limits.max_steps} in one request: cut the sequence, a session carries on")
        fewest, most = self.signature.min_steps, self.signature.max_steps
        if steps < fewest or (most is not None and steps > most):
            bound = f"at least {fewest}" if steps < fewest else f"at most {most}"
            wanted = f"exactly {fewest}" if most == fewest else bound
            raise InvalidInput(f"inputs: expected {wanted} steps, got {steps} (signature {self.signature.label})")

    def check_horizon(self, horizon: int) -> None:
        """Check how far a forecast may reach."""
        if horizon > self.limits.max_horizon:
            raise TooLarge(f"horizon: {horizon}, at most {self.limits.max_horizon}")
        if horizon and not self.signature.streaming:
            raise InvalidInput(f"horizon: {self.signature.label} cannot stream ({self.signature.streaming_reason}), so it cannot roll on")
        if horizon and not self.signature.feedback:
            raise InvalidInput(f"horizon: {self.signature.label} has no output that feeds back into its inputs; leave it out")

    def check_levels(self, levels: Sequence[int], horizon: int) -> None:
        """Check that a forecast of this model can have intervals of these levels, in percent."""
        if not self.signature.intervals and not self.signature.distribution:
            raise InvalidInput(
                f"levels: {self.signature.label} was exported without --calibrate and without --distribution, so it knows no intervals; "
                "leave them out"
            )
        if not horizon:
            raise InvalidInput("levels: go with a horizon, of 1 for the next step alone")
        for level in levels:
            if not MIN_LEVEL <= level <= MAX_LEVEL:
                raise InvalidInput(f"levels: expected {MIN_LEVEL} to {MAX_LEVEL} percent, got {level}")
        if len(set(levels)) < len(levels) or len(levels) > MAX_LEVELS:
            raise InvalidInput(f"levels: expected at most {MAX_LEVELS}, each once, got {len(levels)}")

    def paths(self, paths: int | None, is_sampled: bool, horizon: int) -> int:
        """Return along how many paths the forecast is sampled; 0 where it is not.

        `paths` is what the request says, None where it says nothing; `is_sampled` says whether samples or levels are asked for.
        """
        if not self.signature.distribution:
            if paths is not None:
                raise InvalidInput(f"paths: {self.signature.label} was exported without --distribution, so it samples none; leave them out")
            return 0
        if paths is None and not is_sampled:
            return 0
        if not is_sampled:
            raise InvalidInput(f'paths: go with levels, or with "{SAMPLES}" in return')
        if not horizon:
            raise InvalidInput(f"{SAMPLES}: go with a horizon, of 1 for the next step alone")
        if paths == 0:
            raise InvalidInput("paths: expected at least 1, got 0")
        if paths is not None and paths > self.limits.max_paths:
            raise TooLarge(f"paths: {paths}, at most {self.limits.max_paths} (max_paths)")
        return min(PATHS, self.limits.max_paths) if paths is None else paths

    def check_future(self, rows: int | None, horizon: int, got: str, known: Sequence[int] | None = None) -> None:
        """Check the number of rows of `future`, None where it is missing; `got` is what came, for the message.

        `known` are the feature columns that the client must know in advance: without a choice, all that do not feed back.
        """
        known = self.signature.future_columns if known is None else known
        columns = len(known)
        if rows is None:
            if horizon and columns:
                names = join_names([self.signature.features[i] for i in known])
                raise InvalidInput(f"future: missing; a horizon of {horizon} needs {horizon} lists of {columns} numbers ({names})")
            return
        if not horizon or not columns:
            raise InvalidInput("future: goes with a horizon, for a model with inputs that are known in advance; leave it out")
        if rows != horizon:
            raise InvalidInput(f"future: expected {horizon} lists of {columns} numbers, one a step of the horizon, got {got}")

    def check_session(self, ref: AnyRef) -> None:
        """Check which fields of a session go together."""
        action = ref.action
        if ref.id is None and (ref.step or action not in (Action.STEP, Action.IMPORT)):
            raise InvalidInput("session.id: missing; only a session's first step, or an import, may leave the id to the server")
        if (ref.to is not None) != (action is Action.FORK) or (ref.to is not None and ref.to == ref.id):
            raise InvalidInput("session.to: goes with the action 'fork', which needs it: the id of the new session")
        if action not in (Action.STEP, Action.REWIND):
            if ref.step is not None:
                raise InvalidInput(f"session.step: not part of the action {action.value!r}")
            if ref.generation is not None:
                raise InvalidInput(f"session.generation: not part of the action {action.value!r}")
        if (action is Action.REWIND and ref.step is None) or (action is not Action.REWIND and ref.from_step is not None):
            raise InvalidInput("session.step, session.from: a rewind names the step to go back to, and may name the one it comes from")

    def check(self, request: Request) -> None:
        """Check what concerns more than one field."""
        session, signature = request.session, self.signature
        action = session.action if session else Action.STEP
        if not signature.streaming and (session is not None or request.state is not None):
            raise InvalidInput(
                f"session, state: {signature.label} cannot stream ({signature.streaming_reason}): send whole sequences as inputs"
            )
        if self.columns:
            self._check_columns(request)
        if action is Action.STEP:
            self._check_step(request)
        else:
            self._check_action(request, action)

    def _check_columns(self, request: Request) -> None:
        known = self.signature.future_columns if request.times is None else self.known_beside_times
        for rule in self.columns:
            if request.inputs is not None:
                rule.check(request.inputs[:, rule.column], "inputs", rule.column)
            if request.future is not None and rule.column in known:
                column = known.index(rule.column)
                rule.check(request.future[:, column], "future", column)

    def _check_step(self, request: Request) -> None:
        session = request.session
        if request.inputs is None:
            raise InvalidInput(f"inputs: missing; expected {self.shape()} (signature {self.signature.label})")
        if request.state is not None and session is not None and session.id is not None and session.step != 0:
            raise InvalidInput('state: a session keeps its own; send a state only with "step": 0, which creates the session from it')
        if request.close and not request.commit:
            raise InvalidInput("commit: false leaves the session as it is, so the same request cannot end it")
        if not request.commit and session is None:
            raise InvalidInput("commit: false needs a step of a session; a request without one changes nothing anyway")

    def _check_action(self, request: Request, action: Action) -> None:
        if request.inputs is not None or request.horizon:
            raise InvalidInput(f"inputs, horizon: not part of the action {action.value!r}: send a step of their own")
        if (action is Action.IMPORT) != (request.state is not None):
            raise InvalidInput("state: goes with the action 'import' or with the first step of a session, and 'import' needs it")
        if not request.commit:
            raise InvalidInput("commit: false needs a step of a session; a request without one changes nothing anyway")

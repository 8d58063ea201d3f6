"""Encodes results and errors of the native protocol: compact JSON, never a NaN."""

from dataclasses import dataclass, field

import numpy as np
import orjson

from handlers.arrays import Floats
from handlers.engine.request import LABEL, OPAQUE, PREDICTION, Result, StepResults
from handlers.errors import CellstateError, TooLarge
from handlers.sessions import state as state_format
from handlers.sessions.status import SessionStatus, timestamp
from handlers.signature import Signature

ARRAYS = orjson.OPT_SERIALIZE_NUMPY  # contiguous ones; `default` makes them so


@dataclass(frozen=True)
class Encoder:
    """Encodes for one model; `key` signs the states that clients hold."""

    signature: Signature
    key: bytes = b""
    _models: dict[str, bytes] = field(default_factory=dict)  # the `model` field by version

    def fields(self, result: Result) -> bytes:
        """Encode the arrays and the state, without the braces around them, so that other fields can be put beside them."""
        arrays = result.arrays if LABEL not in result.arrays else {**result.arrays, LABEL: self._labels(result.arrays[LABEL])}
        parts = [orjson.dumps(arrays, option=ARRAYS, default=np.ascontiguousarray)[1:-1]] if arrays else []
        if result.state is not None:
            parts.append(b'"%b":"%b"' % (OPAQUE.encode(), state_format.to_text(result.state, self.key).encode()))
        if result.intervals:
            bounds = {str(level): {"lower": lower, "upper": upper} for level, (lower, upper) in result.intervals.items()}
            parts.append(b'"intervals":%b' % orjson.dumps(bounds, option=ARRAYS, default=np.ascontiguousarray))
        if result.times:
            parts.append(b'"times":%b' % orjson.dumps(result.times))
        if result.imputed:
            parts.append(b'"imputed":%d' % result.imputed)
        return b",".join(parts) if len(parts) != 1 else parts[0]

    def response(self, fields: bytes, result: Result) -> bytes:
        """Encode one whole response object: the fields, the model, the session."""
        model = self._models.get(result.version) or self._model(result.version)
        session = b"" if result.session is None else b"," + encode_session(result.session)
        return b"{%b%b%b%b}" % (fields, b"," if fields else b"", model, session)

    def steps(self, results: StepResults, max_bytes: int) -> list[bytes]:
        """Encode the response objects of many steps, as `fields` and `response` do for each.

        Raises:
            TooLarge: the fields of one are more than `max_bytes`.
        """
        texts = _by_row(results.predictions)
        if results.times:
            texts = [f'{text},"times":["{time}"]' if time else text for text, time in zip(texts, results.times, strict=True)]
        if max(map(len, texts)) + len(PREDICTION) + 3 > max_bytes:
            raise TooLarge("reply: a prediction is too long to be sent")
        model, expires = self._model(results.version).decode(), timestamp(results.expires_at)
        return [
            f'{{"{PREDICTION}":{text},{model},"session":{{"id":"{id}","step":{step},"generation":{generation},'
            f'"expires_at":"{expires}","replayed":false}}}}'.encode()
            for text, id, step, generation in zip(texts, results.ids, results.steps, results.generations, strict=True)
        ]

    def error(self, error: CellstateError) -> bytes:
        """Encode `{"error": {…}}`."""
        return orjson.dumps({"error": error.body()})

    def _labels(self, numbers: Floats) -> str | list[str]:
        """Return the name of the class, or of each step's."""
        names = [self.signature.labels[int(number)] for number in numbers.ravel()]
        return names if numbers.ndim else names[0]

    def _model(self, version: str) -> bytes:
        encoded = self._models[version] = orjson.dumps({"model": {"name": self.signature.name, "version": version}})[1:-1]
        return encoded


def _by_row(array: Floats) -> list[str]:
    """Encode the rows of an array as JSON, which are arrays themselves."""
    depth = array.ndim - 1
    whole = orjson.dumps(np.ascontiguousarray(array), option=ARRAYS).decode()
    opening, closing = "[" * depth, "]" * depth
    return [f"{opening}{row}{closing}" for row in whole[depth + 1 : -depth - 1].split(f"{closing},{opening}")]


def encode_session(session: SessionStatus) -> bytes:
    """Encode the `session` field. Ids hold no character that JSON escapes."""
    text = (
        f'"session":{{"id":"{session.id}","step":{session.step},"generation":{session.generation},'
        f'"expires_at":"{timestamp(session.expires_at)}","replayed":{"true" if session.replayed else "false"}'
    )
    if session.closed:
        text += ',"closed":true'
    if session.rewarmed:
        text += f',"rewarmed":true,"rebuilt":"{session.rebuilt}"'
    if session.description is not None:
        described = session.description
        text += f',"created_at":"{timestamp(described.created_at)}","last_step":{described.last_step}'
        text += f',"model_digest":"{described.model_digest.hex()}"'
        if described.rewarm:
            text += f',"rewarm":"{described.rewarm}"'
        if described.time is not None:
            text += f',"time":"{described.time}"'
        if described.scores is not None:
            text += f',"scores":{orjson.dumps(described.scores).decode()}'
    return (text + "}").encode("ascii")

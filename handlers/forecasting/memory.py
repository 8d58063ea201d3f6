"""What a stream remembers for its forecasts, beside its hidden state, and that memory's bytes.

Layout, little-endian: format (1 byte), missing (2), time (8), number of predicted values (2), length of the scores
(2), then the values, float32, the scores (handlers/forecasting/scoring.py), and what the stream has learned about its errors
(handlers/forecasting/adaptation.py), or the outputs of a model of distributions, which say what the stream expects.
"""

import struct

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from handlers.arrays import Floats
from handlers.signature import Signature

FORMAT = 1
HEADER = struct.Struct("<BHqHH")
MAX_MISSING = 2**16 - 1
NO_TIME = -(2**63)


class StreamMemory(Struct, frozen=True):
    """The memory of one stream at one position."""

    prediction: Floats | None = None  # [P], of the outputs that feed back: what the stream expects at its next step; None: not known
    missing: int = 0  # steps in a row, up to this position, that had to be imputed
    time: int | None = None  # of the last step, as the model's calendar counts; None: not known
    scores: bytes = b""  # of its predictions; empty where nothing judges them
    learned: bytes = (
        b""  # about the errors of its forecasts, where somebody asked; of a model of distributions its last outputs, [O] float32
    )

    def encode(self) -> bytes:
        """Encode the memory."""
        values = b"" if self.prediction is None else self.prediction.tobytes()
        time = NO_TIME if self.time is None else self.time
        header = HEADER.pack(FORMAT, min(self.missing, MAX_MISSING), time, len(values) // 4, len(self.scores))
        return header + values + self.scores + self.learned


EMPTY = StreamMemory()


def decode(data: bytes, columns: int) -> StreamMemory:
    """Decode what `StreamMemory.encode` encoded for a model with `columns` outputs that feed back.

    Bytes of another format or of another model give an empty memory: the stream goes on, and has to observe before it can impute.
    """
    if len(data) < HEADER.size:
        return EMPTY
    version, missing, time, count, scores = HEADER.unpack_from(data)
    start = HEADER.size + 4 * count
    end = start + scores
    if version != FORMAT or len(data) < end:
        return EMPTY
    prediction = np.frombuffer(data, "<f4", count, HEADER.size) if count == columns else None
    return StreamMemory(prediction, missing, None if time == NO_TIME else time, data[start:end], data[end:])


def by_output(signature: Signature, values: Floats) -> npt.NDArray[np.float64]:
    """Return values that are in the order of the columns that feed back, `[…, P]`, in the order of the outputs; NaN for the others."""
    result = np.full((*values.shape[:-1], len(signature.outputs)), np.nan)
    result[..., signature.fed_outputs] = values
    return result

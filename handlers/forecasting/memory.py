"""What a stream remembers for its forecasts, beside its hidden state, and that memory's bytes.

Layout, little-endian: format (1 byte), missing (2), number of predicted values (2), then the values, float32.
"""

import struct
from dataclasses import dataclass

import numpy as np

from handlers.arrays import Floats

FORMAT = 1
HEADER = struct.Struct("<BHH")
MAX_MISSING = 2**16 - 1


@dataclass(slots=True)
class StreamMemory:
    """The memory of one stream at one position. Memories are replaced, never changed in place."""

    prediction: Floats | None = None  # [P], of the outputs that feed back: what the stream expects at its next step; None: not known
    missing: int = 0  # steps in a row, up to this position, that had to be imputed

    def encode(self) -> bytes:
        """Encode the memory."""
        values = b"" if self.prediction is None else self.prediction.tobytes()
        return HEADER.pack(FORMAT, min(self.missing, MAX_MISSING), len(values) // 4) + values


def decode(data: bytes, columns: int) -> StreamMemory:
    """Decode what `StreamMemory.encode` encoded for a model with `columns` outputs that feed back.

    Bytes of another format or of another model give an empty memory: the stream goes on, and has to observe before it can impute.
    """
    if len(data) < HEADER.size:
        return StreamMemory()
    version, missing, count = HEADER.unpack_from(data)
    if version != FORMAT or len(data) != HEADER.size + 4 * count:
        return StreamMemory()
    if count != columns:
        return StreamMemory(missing=missing)
    return StreamMemory(np.frombuffer(data, "<f4", count, HEADER.size), missing)

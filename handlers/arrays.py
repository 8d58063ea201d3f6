"""Names for the NumPy arrays that pass between the packages here; shapes are given where an array is used."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Vector = Floats  # one row's whole state, [S]

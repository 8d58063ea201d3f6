"""Arrays to JSON values and back: NumPy arrays where NumPy is installed, nested lists where it is not."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float32]
else:
    Array = Any
    try:
        import numpy as np
    except ImportError:
        np = None


class HasToList(Protocol):
    """A NumPy array, a torch tensor, a pandas Series."""

    def tolist(self) -> Any: ...


class HasToNumpy(Protocol):
    """A DataFrame of pandas or polars."""

    def to_numpy(self) -> Any: ...


ArrayLike: TypeAlias = Sequence[Any] | HasToList | HasToNumpy


def to_json(value: ArrayLike) -> Any:
    """Numbers as JSON takes them: nested lists of int and float. Of a table, such as a pandas DataFrame, the rows."""
    rows: Any = value.to_numpy() if hasattr(value, "to_numpy") else value  # iterating over a DataFrame gives the names of its columns
    if hasattr(rows, "tolist"):
        return rows.tolist()
    if isinstance(rows, str | bytes | Mapping):
        raise TypeError(f"expected numbers, got {type(rows).__name__}")
    return [to_json(item) if hasattr(item, "tolist") or isinstance(item, Sequence) else item for item in rows]


def from_json(value: Any) -> Array:
    """float32, which is exact: the service writes float32 numbers. A nested list without NumPy."""
    return value if np is None else np.asarray(value, dtype=np.float32)

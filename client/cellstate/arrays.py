"""Arrays to JSON values and back: NumPy arrays where NumPy is installed, nested lists where it is not."""

from collections.abc import Sequence
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
    """A NumPy array, a torch tensor, a pandas series."""

    def tolist(self) -> Any: ...


ArrayLike: TypeAlias = Sequence[Any] | HasToList


def to_json(value: ArrayLike) -> Any:
    """Numbers as JSON takes them: nested lists of int and float."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, str | bytes):
        raise TypeError(f"expected numbers, got {type(value).__name__}")
    return [to_json(item) if hasattr(item, "tolist") or isinstance(item, Sequence) else item for item in value]


def from_json(value: Any) -> Array:
    """float32, which is exact: the service writes float32 numbers. A nested list without NumPy."""
    return value if np is None else np.asarray(value, dtype=np.float32)

"""Where the API key, sent as a bearer token, comes from, and how it is read again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Token: TypeAlias = str | os.PathLike[str] | Callable[[], str] | None


class TokenSource:
    """The current API key: a fixed string, the contents of a file, or what a function returns."""

    def __init__(self, token: Token) -> None:
        self._read = _reader(token)
        self._token: str | None = token if isinstance(token, str) else None
        self.renewable = token is not None and not isinstance(token, str)

    def headers(self) -> dict[str, str]:
        """The Authorization header, if there is a token. Reading it the first time raises what the file or the function raises."""
        if self._token is None and self._read is not None:
            self._token = self._read()
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def renew(self) -> None:
        """Read the token again. One that cannot be read now, such as a file that is being written, leaves the old one."""
        if self._read is not None:
            try:
                self._token = self._read()
            except (OSError, ValueError, KeyError):
                return


def _reader(token: Token) -> Callable[[], str] | None:
    if token is None or isinstance(token, str):
        return None
    return token if callable(token) else lambda: _read_file(Path(token))


def _read_file(path: Path) -> str:
    """Read a key. Raises OSError, and ValueError for an empty file."""
    text = path.read_text().strip()
    if not text:
        raise ValueError(f"{path} is empty: it should hold an API key")
    return text

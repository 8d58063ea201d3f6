"""Write zip files byte for byte the same for the same contents: sorted names, no compression, one fixed time."""

import zipfile
from collections.abc import Mapping
from typing import IO

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state


def write_zip(stream: IO[bytes], files: Mapping[str, bytes]) -> None:
    """Write `files`, contents by name, to `stream`."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(files):
            target.writestr(zipfile.ZipInfo(name, EPOCH), files[name])

"""Choose the archive to load."""

from collections.abc import Sequence

from host.archives import Archive

PREFERRED = "traffic"


def choose(archives: Sequence[Archive], name: str = "") -> Archive:
    """Return the archive of that name; without a name the demo's, else the first that streams.

    Raises:
        LookupError: there is no archive of that name.
    """
    named = {archive.name: archive for archive in archives}
    if name:
        if name not in named:
            raise LookupError(f"--model: no archive of {name!r} in the store; it has {', '.join(named)}")
        return named[name]
    streaming = [archive for archive in archives if archive.signature["streaming"]["possible"]]
    return named.get(PREFERRED) or next(iter(streaming or archives))

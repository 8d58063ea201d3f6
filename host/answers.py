"""Which models answered when they were asked last, as a metric: without any worker nothing of the model's own would tell."""

from collections.abc import Callable, Sequence

from host.archives import Archive


class Answers:
    """What one server found when it asked its models."""

    def __init__(self) -> None:
        self._found: dict[str, bool] = {}

    def note(self, archive: Archive, ask: Callable[[], str | None]) -> str | None:
        """Return why a model does not answer, or None, as `ask` does, and keep it; one that cannot be asked does not answer."""
        self._found[archive.address] = False
        reason = ask()
        self._found[archive.address] = reason is None
        return reason

    def exposition(self, archives: Sequence[Archive]) -> str:
        """Return a gauge for each of the archives that was asked, as Prometheus text."""
        asked = [archive for archive in archives if archive.address in self._found]
        lines = [
            f'cellstate_model_answers{{model_name="{archive.name}",model_version="{archive.version}"}} {self._found[archive.address]:d}\n'
            for archive in asked
        ]
        return "".join(["# TYPE cellstate_model_answers gauge\n", *lines]) if lines else ""

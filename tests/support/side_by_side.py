"""How `make test` uses two processes: one runs every test that starts TorchServe, the other one the rest, file by file."""

from typing import Any

from xdist.scheduler import LoadFileScheduling

SERVERS = "tests/e2e/"


class SideBySide(LoadFileScheduling):
    """pytest-xdist's distribution by file, with `tests/e2e` as one file, which is handed out first.

    Its tests share servers, and what they measure must not depend on which other server happens to start.
    """

    def _split_scope(self, nodeid: str) -> str:
        return SERVERS if nodeid.startswith(SERVERS) else super()._split_scope(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        if SERVERS in self.workqueue:
            self.workqueue.move_to_end(SERVERS, last=False)
        super()._assign_work_unit(node)

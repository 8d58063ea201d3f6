"""The order in which the requests of a batch run."""

from collections.abc import Iterable

from handlers.engine.task import Task


def waves(tasks: Iterable[Task]) -> list[list[Task]]:
    """Split tasks, in arrival order, into waves of which none touches a session twice.

    The requests of one session then run in the order of their arrival, one in each wave; those of different sessions run together.
    """
    levels: dict[str, int] = {}
    result: list[list[Task]] = []
    for task in tasks:
        level = max([levels.get(name, 0) for name in task.names], default=0)
        for name in task.names:
            levels[name] = level + 1
        if level == len(result):
            result.append([])
        result[level].append(task)
    return result

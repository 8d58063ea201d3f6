"""The order in which the requests of a batch run."""

from collections.abc import Sequence

from handlers.engine.task import Task


def waves(tasks: Sequence[Task]) -> Sequence[Sequence[Task]]:
    """Split tasks, in arrival order, into waves of which none touches a session twice.

    The requests of one session then run in the order of their arrival, one in each wave; those of different sessions run together.
    """
    names = [name for task in tasks for name in task.names]
    if len(set(names)) == len(names):
        return [tasks] if tasks else []
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

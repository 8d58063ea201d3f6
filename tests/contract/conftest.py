"""Two versions of one model, and how many steps were served together."""

import pytest

from handlers.engine import usual_steps


@pytest.fixture
def old(exported):
    return exported("meter")


@pytest.fixture
def new(exported):
    return exported("meter-2")


@pytest.fixture
def together(monkeypatch):
    """Whether usual steps were served together, a number of steps for each time."""
    served, serve = [], usual_steps._serve

    def counted(batch, tasks, deadline):
        serve(batch, tasks, deadline)
        served.append(sum(task.reply is not None for task in tasks))

    monkeypatch.setattr(usual_steps, "_serve", counted)
    return served

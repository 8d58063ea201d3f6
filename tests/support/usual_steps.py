"""What usual steps that are served together are compared with."""

import pytest

from handlers.engine import usual_steps
from tests.conftest import ask


class Alone:
    """A service that serves each step by itself."""

    def __init__(self, service):
        self.service = service

    def __call__(self, *requests):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(usual_steps, "FEW", float("inf"))
            return ask(self.service, *requests)

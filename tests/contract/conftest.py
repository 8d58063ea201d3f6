"""Two versions of one model."""

import pytest


@pytest.fixture
def old(exported):
    return exported("meter")


@pytest.fixture
def new(exported):
    return exported("meter-2")

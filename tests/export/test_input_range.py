"""The range of inputs that a signature states is one in which the artefacts were found right."""

import pytest
import torch

from export.errors import ParityError
from export.lift.lifted import lift
from export.verify import parity
from export.verify.input_range import input_limit
from export.verify.runners import eager_runner
from tests.support.model_zoo import F, LastStep


class Clipped(LastStep):
    """Right for inputs within ±`limit`, not a number beyond."""

    limit = 50.0

    def forward(self, x):
        return super().forward(torch.where(x.abs() > self.limit, torch.full_like(x, torch.nan), x))


@pytest.fixture
def made():
    torch.manual_seed(0)
    return Clipped().eval()


def test_a_limit_is_never_a_magnitude_that_failed(made):
    lifted = lift(made, torch.randn(2, 12, F))
    limit = input_limit(lifted, eager_runner(lifted), 5, torch.Generator().manual_seed(1))
    assert 1 < limit <= Clipped.limit


def test_a_limit_below_the_example_refuses_the_build(made):
    lifted = lift(made, torch.randn(2, 12, F))
    lifted.module.model.limit = 0.5
    assert input_limit(lifted, eager_runner(lifted), 5, torch.Generator().manual_seed(1)) == 0.0
    with pytest.raises(ParityError, match="as large as the example's"):
        parity.Report((), "", 0.0).check()

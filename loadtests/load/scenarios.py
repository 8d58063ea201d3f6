"""The scenarios of a load test: flows by name, with their weight in the default mix and what they need of the model."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.load import flows, protocol_flows
from loadtests.load.answers import Answers
from loadtests.load.checks import Checker
from loadtests.load.exchange import Flow

MakeFlow = Callable[[Checker, random.Random, str], Flow]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A flow with its weight in the default mix, and what it needs of the model."""

    flow: MakeFlow
    weight: int
    sessions: bool = False
    forecasts: bool = False

    def fits(self, answers: Answers) -> bool:
        """Whether the model can serve it."""
        return (answers.streaming or not self.sessions) and (answers.forecasts or not self.forecasts)


SCENARIOS: dict[str, Scenario] = {
    "predict": Scenario(flows.predict, 4),
    "predict_hidden": Scenario(flows.predict_hidden, 1),
    "client_state": Scenario(flows.client_state, 1, sessions=True),
    "stream": Scenario(flows.stream, 12, sessions=True),
    "forecast": Scenario(flows.forecast, 1, forecasts=True),
    "bulk": Scenario(flows.bulk, 1, sessions=True),
    "churn": Scenario(flows.churn, 1, sessions=True),
    "hostile": Scenario(flows.hostile, 1),
    "kserve_v1": Scenario(protocol_flows.kserve_v1, 1),
    "open_inference": Scenario(protocol_flows.open_inference, 1),
    "open_inference_stream": Scenario(protocol_flows.open_inference_stream, 1, sessions=True),
    "open_inference_bulk": Scenario(protocol_flows.open_inference_bulk, 1, sessions=True),
    "open_inference_binary": Scenario(protocol_flows.open_inference_binary, 1, sessions=True),
}


def parse_mix(text: str) -> dict[str, int]:
    """Read `stream=3,predict=1` as weights by scenario; empty text is the default mix.

    Raises:
        ValueError: a name is no scenario, or a weight is no positive integer.
    """
    if not text:
        return {name: scenario.weight for name, scenario in SCENARIOS.items()}
    mix = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in SCENARIOS:
            raise ValueError(f"scenarios: no {name!r}; there are {', '.join(SCENARIOS)}")
        if not (weight or "1").isdigit() or int(weight or "1") == 0:
            raise ValueError(f"scenarios: the weight of {name} must be a positive integer, got {weight!r}")
        mix[name] = int(weight or "1")
    return mix

"""The users of a load test, as Locust runs them: one class for each scenario, and one that is a connection of the open loop."""

import random
import uuid
from typing import ClassVar

from locust import User, constant

from loadtests.load.driver import Driver
from loadtests.load.open_loop import OpenLoop
from loadtests.load.scenarios import SCENARIOS
from loadtests.load.transport import Connection, Target


class CheckedUser(User):  # type: ignore[misc]  # Locust has no types
    """A user with one connection, whose every answer is compared with the offline one."""

    abstract = True
    wait_time = constant(0)

    def on_start(self) -> None:
        """Take the run's driver, and make a connection."""
        self.driver: Driver = self.environment.driver
        target: Target = self.environment.target
        self.connection = Connection(target)

    def on_stop(self) -> None:
        """Close the connection."""
        self.connection.close()


class ScenarioUser(CheckedUser):
    """A closed loop: one flow of a scenario after another, each request as soon as the one before was answered."""

    abstract = True
    scenario = ""

    def flow(self) -> None:
        """Run one flow from its start to its end."""
        id = f"load-{uuid.uuid4().hex}"
        self.driver.run(SCENARIOS[self.scenario].flow(self.driver.checker, random.Random(id), id), self.connection)

    tasks: ClassVar = [flow]


class OpenLoopUser(CheckedUser):
    """A connection of the open loop."""

    abstract = True

    def on_start(self) -> None:
        """Join the dispatcher."""
        super().on_start()
        self.loop: OpenLoop = self.environment.open_loop
        self.loop.joined()

    def serve(self) -> None:
        """Send one request when it is due."""
        self.loop.serve(self.connection)

    tasks: ClassVar = [serve]


def scenario_users(mix: dict[str, int]) -> list[type[ScenarioUser]]:
    """Return a user class for each scenario of the mix, with its weight."""
    return [type(f"{name.title().replace('_', '')}User", (ScenarioUser,), {"scenario": name, "weight": mix[name]}) for name in mix]


_USERS = {user.scenario: user for user in scenario_users({name: scenario.weight for name, scenario in SCENARIOS.items()})}
PredictUser, PredictHiddenUser, ClientStateUser = _USERS["predict"], _USERS["predict_hidden"], _USERS["client_state"]
StreamUser, ForecastUser, BulkUser = _USERS["stream"], _USERS["forecast"], _USERS["bulk"]
ChurnUser, HostileUser, KserveV1User = _USERS["churn"], _USERS["hostile"], _USERS["kserve_v1"]
OpenInferenceUser, OpenInferenceStreamUser = _USERS["open_inference"], _USERS["open_inference_stream"]
OpenInferenceBulkUser, OpenInferenceBinaryUser = _USERS["open_inference_bulk"], _USERS["open_inference_binary"]

"""Ask one prediction before the load starts, so that a wrong token, model or archive ends the run at once with a sentence."""

import httpx

from loadtests.load.checks import Checker
from loadtests.load.exchange import encode
from loadtests.load.transport import Target
from loadtests.offline import WINDOW

TIMEOUT = 10.0  # seconds


class PreflightError(Exception):
    """The deployment cannot be tested; the message says why and what to do."""


def preflight(target: Target, checker: Checker) -> str:
    """Ask one prediction and compare it with the offline one. Return the version that answered.

    Raises:
        PreflightError: there was no answer, a refusal, or the answer of another model.
    """
    answers = checker.answers
    body = encode({"inputs": answers.x[0, :WINDOW]})
    try:
        with httpx.Client(verify=target.verify(), timeout=TIMEOUT) as client:
            response = client.post(target.url + target.path, content=body, headers=target.headers)
    except httpx.HTTPError as e:
        raise PreflightError(f"{target.url} does not answer ({type(e).__name__}: {e}); is the server up, and the URL right?") from e
    if response.status_code != 200:
        raise PreflightError(_refusal(response, target))
    try:
        answer = response.json()
    except ValueError as e:
        raise PreflightError(f"{target.url}: the answer is not JSON; is this a Cellstate server?") from e
    version = str(answer.get("model", {}).get("version", ""))
    if (problem := checker.window(0, answer)) is not None:
        checker.largest = 0.0
        raise PreflightError(
            f"the served {target.model} {version} does not answer as the archive of {answers.version} does offline: {problem.detail}; "
            f"give --store the archive that is served"
        )
    return version


def _refusal(response: httpx.Response, target: Target) -> str:
    text = response.text[:200]
    if response.status_code in (401, 403):
        return f"{target.url} refuses the key ({response.status_code}): give --token an API key of the server (python -m host keys add)"
    if response.status_code == 404:
        return f"{target.url} has no model {target.model!r} (404): give --model its name"
    return f"{target.url} refuses a prediction of {target.model!r}: {response.status_code} {text}"

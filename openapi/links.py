"""What may follow a reply that has a session: requests about that session, as links of the reply."""

from typing import Any

ID, STEP, GENERATION = (f"$response.body#/session/{name}" for name in ("id", "step", "generation"))
NEXT_STEP = {"inputs": "$request.body#/inputs", "session": {"id": ID, "step": STEP, "generation": GENERATION}}
ACTIONS = {
    "describe": "Where the session is.",
    "export": "The session's state and position, as one text.",
    "close": "The end of the session.",
}


def of_session(operation: str) -> dict[str, Any]:
    """Return the links of a reply, to the operation that takes requests about its session."""
    links = {
        "nextStep": _link(operation, NEXT_STEP, "The session's next step, here with the same inputs; `session.step` is where it goes on.")
    }
    return links | {f"{name}Session": _link(operation, {"session": {"id": ID, "action": name}}, said) for name, said in ACTIONS.items()}


def _link(operation: str, body: dict[str, Any], description: str) -> dict[str, Any]:
    parameters = {"path.model": "$request.path.model"}
    return {"operationId": operation, "description": description, "parameters": parameters, "requestBody": body}

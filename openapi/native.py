"""The native protocol: the schemas of its requests and replies."""

from typing import Any

from handlers.forecasting.intervals import MAX_LEVEL, MIN_LEVEL
from handlers.protocols.native.decode import FIELDS
from handlers.protocols.rules import MAX_LEVELS
from handlers.protocols.validation import ID
from handlers.sessions.reference import MAX_STEP, NAMED_ACTIONS, Action
from handlers.settings import Settings
from openapi.schema import BOOLEAN, NUMBER, REBUILT, TEXT, Schema, array, constant, integer, matrix, one_of, record, ref, text

LIMITS = Settings()
RETURNS = "^(prediction|label|probabilities|parameters|output|state|samples|.*_n)$"
DATA = ("inputs", "observations")  # a step has one of them
ACTION_FIELDS = {  # beside `id` and `action`: what an action needs, and what it may have
    Action.DESCRIBE: ((), ()),
    Action.CLOSE: ((), ()),
    Action.FORK: (("to",), ()),
    Action.REWIND: (("step",), ("from", "generation")),
    Action.EXPORT: ((), ()),
    Action.IMPORT: ((), ()),
}
NULLABLE: Schema = {"type": ["number", "null"]}


def schemas() -> dict[str, Schema]:
    """Return the schemas of requests and replies."""
    return {
        "SessionId": text("A session's id, of the client's choice.", pattern=f"^{ID.pattern}$"),
        "Inputs": _inputs(),
        "Observation": _observation(),
        "State": _state(),
        "StepSession": _step_session(),
        "StepRequest": _step_request("inputs"),
        "ObservedRequest": _step_request("observations"),
        **{_action_name(action): _action_request(action) for action in NAMED_ACTIONS},
        "Request": one_of(ref("StepRequest"), ref("ObservedRequest"), *(ref(_action_name(action)) for action in NAMED_ACTIONS)),
        "BatchRequest": _batch_request(),
        "Model": record({"name": TEXT, "version": TEXT}, ["name", "version"], "The model that answered."),
        "SessionStatus": _session_status(),
        "Scores": _scores(),
        "Interval": _interval(),
        "Reply": _reply(),
        "ErrorReply": record({"error": ref("Error")}, ["error"], "The error of one of many requests."),
        "BatchReply": record(
            {"predictions": array(one_of(ref("Reply"), ref("ErrorReply")), "One reply for each request, in order.")}, ["predictions"]
        ),
    }


def _inputs() -> Schema:
    most = LIMITS.max_steps
    return one_of(
        array(NULLABLE, "For a model of one feature, or of token ids.", least=1, most=most),
        array(array(NULLABLE, least=1), "F numbers for each step.", least=1, most=most),
        description=(
            "`[T, F]`: T steps of F features, in the data's own units; `null` was not measured, and may stand where the model's prediction "
            f"feeds back. At most `max_steps` ({most} unless configured)."
        ),
    )


def _observation() -> Schema:
    return {
        "type": "object",
        "description": "A time, and the features that neither the time nor anything else gives, by name.",
        "properties": {"time": text("ISO 8601.", examples=["2018-09-29T23:00:00"])},
        "required": ["time"],
        "additionalProperties": NULLABLE,
    }


def _state() -> Schema:
    arrays = {"type": "object", "description": "The state tensors by name, each `[L*D, size]`, as they were returned."}
    return one_of(text("The opaque state."), arrays | {"additionalProperties": matrix("`[L*D, size]`")})


def _step_session() -> Schema:
    return one_of(
        ref("SessionId"),
        record(
            {
                "id": ref("SessionId"),
                "step": integer("The position that the client believes the session to be at; 0 creates it.", most=MAX_STEP),
                "generation": integer("The generation of the last answer.", most=MAX_STEP),
                "action": constant(Action.STEP.value),
            }
        ),
        description="The session of a step. Without an id the server makes one.",
    )


def _step_request(data: str) -> Schema:
    """Return the schema of a step whose data is in that field: `inputs` or `observations`."""
    properties: dict[str, Schema] = {
        "inputs": ref("Inputs"),
        "observations": array(ref("Observation"), "The next observations, for a model with a calendar.", 1, LIMITS.max_steps),
        "return": array(TEXT | {"pattern": RETURNS}, "What is answered: `prediction` unless asked otherwise."),
        "state": ref("State"),
        "session": ref("StepSession"),
        "horizon": integer("Forecast that many steps.", most=LIMITS.max_horizon),
        "future": array(one_of(NUMBER, array(NUMBER, least=1)), "`[horizon, K]`: inputs that are known in advance.", 1, LIMITS.max_horizon),
        "levels": array(integer(least=MIN_LEVEL, most=MAX_LEVEL), "With a horizon: of intervals, in percent.", 1, MAX_LEVELS)
        | {"uniqueItems": True},
        "paths": integer("With levels or samples, of a model of distributions: sampled paths.", least=1, most=LIMITS.max_paths),
        "commit": BOOLEAN | {"default": True, "description": "`false` answers and leaves the session where it is."},
    }
    fields = {name: properties[name] for name in FIELDS if name == data or name not in DATA}
    return record(fields, [data], "A window, or the next steps of a session.")


def _action_name(action: Action) -> str:
    return f"{action.value.capitalize()}Request"


def _action_request(action: Action) -> Schema:
    needed, allowed = ACTION_FIELDS[action]
    known: dict[str, Schema] = {
        "to": ref("SessionId"),
        "step": integer("The position to go back to.", most=MAX_STEP),
        "from": integer("The position that the client believes the session to be at.", most=MAX_STEP),
        "generation": integer("The generation of the last answer.", most=MAX_STEP),
    }
    properties = {"id": ref("SessionId"), "action": constant(action.value)} | {name: known[name] for name in (*needed, *allowed)}
    required = ["action", *needed] if action is Action.IMPORT else ["id", "action", *needed]
    more = {"state": ref("State")} if action is Action.IMPORT else {}
    return record({"session": record(properties, required), **more}, ["session", *more], ACTIONS[action])


ACTIONS = {
    Action.DESCRIBE: "Tell where a session is; nothing changes.",
    Action.CLOSE: "End a session.",
    Action.FORK: "Make another session that begins where this one is.",
    Action.REWIND: "Go back to an earlier position that is kept.",
    Action.EXPORT: "Return the session's state as an opaque string.",
    Action.IMPORT: "Make a session from a state.",
}


def _batch_request() -> Schema:
    items = array(ref("Request"), f"At most `max_instances` ({LIMITS.max_instances} unless configured).", 1, LIMITS.max_instances)
    return record({"instances": items}, ["instances"], "Many requests; each is answered, or fails, alone.")


def _session_status() -> Schema:
    time = text("RFC 3339, UTC.", format="date-time")
    return record(
        {
            "id": ref("SessionId"),
            "step": integer("The steps that the session has consumed."),
            "generation": integer("How often it was rewound."),
            "expires_at": time,
            "replayed": BOOLEAN | {"description": "Whether the request was applied before, and is answered again."},
            "closed": BOOLEAN,
            "rewarmed": BOOLEAN | {"description": "Whether the state was rebuilt from recent inputs, by another version of the model."},
            "rebuilt": REBUILT,
            "created_at": time,
            "last_step": integer("The position before the last step."),
            "model_digest": text("Of the model that the state belongs to.", pattern="^[0-9a-f]+$"),
            "rewarm": text("How many recent inputs the session has to be rebuilt from by another version, or why it keeps none."),
            "time": text("ISO 8601; of the last step, where the stream has times."),
            "scores": ref("Scores"),
        },
        ["id", "step", "generation", "expires_at", "replayed"],
        "Where the session is after the request.",
    )


def _scores() -> Schema:
    by_output = array(NUMBER)
    return record(
        {
            "steps": integer("Predictions that were scored."),
            "mae": by_output,
            "bias": by_output,
            "mase": by_output,
            "coverage": {"type": "object", "additionalProperties": NUMBER, "description": "By level, in percent."},
            "drift": BOOLEAN,
            "drifts": integer(),
        },
        ["steps", "drift", "drifts"],
        "How well a model that was calibrated, or predicts distributions, predicts this session.",
    )


def _interval() -> Schema:
    bound = matrix("`[horizon, O]`")
    return record({"lower": bound, "upper": bound}, ["lower", "upper"])


def _reply() -> Schema:
    properties: dict[str, Any] = {
        "prediction": one_of(array(NUMBER), matrix(""), description="`[O]`, or `[T, O]` for a model that predicts at every step."),
        "label": one_of(TEXT, array(TEXT), description="Of a classifier: the class of the largest prediction, or each step's."),
        "probabilities": one_of(array(NUMBER), matrix(""), description="Of a classifier: the probability of each class, as `prediction`."),
        "parameters": one_of(array(NUMBER), matrix(""), description="All outputs of a model of distributions, as `prediction`."),
        "samples": array(matrix(""), "`[paths, horizon, P]`: the sampled paths."),
        "output": matrix("`[T, D*P]`: the top layer's activations."),
        "h_n": matrix("`[L*D, P]`: the hidden state of all layers."),
        "c_n": matrix("`[L*D, H]`: the cell state of all layers."),
        "forecast": matrix("`[horizon, O]`"),
        "state": text("The opaque state."),
        "intervals": {"type": "object", "additionalProperties": ref("Interval"), "description": "Of the forecast, by level."},
        "times": array(TEXT, "Of the forecast, or of the prediction."),
        "imputed": integer("Missing values that predictions stood in for.", least=1),
        "model": ref("Model"),
        "session": ref("SessionStatus"),
    }
    names = text("Other models have other state tensors, each `[L*D, size]`.", pattern=f"^({'|'.join(properties)}|.*_n)$")
    schema = record(properties, ["model"], "What was asked for.", propertyNames=names)
    del schema["additionalProperties"]  # which would say of each of them that it is none
    return schema

"""The Open Inference Protocol, version 2: the schemas of its requests and replies."""

from handlers.forecasting.intervals import MAX_LEVEL, MIN_LEVEL
from handlers.protocols.open_inference.binary import BYTES, DATATYPES
from handlers.protocols.open_inference.decode import IGNORED, PARAMETERS
from handlers.protocols.open_inference.encode import FP32, INT32, INT64
from handlers.protocols.open_inference.tensors import (
    INPUT_FIELDS,
    MAX_DIMENSION,
    MAX_ID,
    MAX_RANK,
    OUTPUT_FIELDS,
    REQUEST_FIELDS,
)
from handlers.protocols.validation import ID
from handlers.sessions.reference import MAX_STEP
from handlers.settings import Settings
from openapi.schema import BOOLEAN, REBUILT, TEXT, Schema, array, choice, integer, one_of, record, ref, text

LIMITS = Settings()
ELEMENT: Schema = {"type": ["number", "string", "boolean", "null"]}


def schemas() -> dict[str, Schema]:
    """Return the schemas of requests and replies."""
    return {
        "TensorData": array({}, "The elements in row-major order, flat or nested; `null` is not a number."),
        "InferInput": _input(),
        "InferRequestedOutput": _requested_output(),
        "InferParameters": _parameters(),
        "InferRequest": _request(),
        "InferOutput": _output(),
        "InferReply": _reply(),
    }


def _shape(least: int) -> Schema:
    return array(integer(least=least, most=MAX_DIMENSION), least=1, most=MAX_RANK)


def _input() -> Schema:
    size = record({"binary_data_size": integer("The bytes of this tensor behind the JSON header.")})
    properties: dict[str, Schema] = {
        "name": text("`x`, or another of the tensors that docs/open-inference.md names.", minLength=1),
        "shape": _shape(1),
        "datatype": choice(DATATYPES),
        "parameters": size | {"type": ["object", "null"], "additionalProperties": ELEMENT_PARAMETER},
        "data": ref("TensorData"),
    }
    return record({name: properties[name] for name in INPUT_FIELDS}, ["name", "shape", "datatype"])


ELEMENT_PARAMETER: Schema = {"type": ["string", "number", "boolean"]}


def _requested_output() -> Schema:
    flags = {"type": ["object", "null"], "properties": {"binary_data": BOOLEAN}, "additionalProperties": ELEMENT_PARAMETER}
    properties: dict[str, Schema] = {"name": TEXT | {"minLength": 1}, "parameters": flags}
    return record({name: properties[name] for name in OUTPUT_FIELDS}, ["name"])


def _parameters() -> Schema:
    sequence = one_of(integer(most=2**63 - 1), text("", pattern=f"^({ID.pattern})?$"))
    known: dict[str, Schema] = {
        "sequence_id": sequence | {"description": "A session, for one row; 0 and the empty text are none."},
        "sequence_start": BOOLEAN | {"description": "Begin the session anew, whatever it was; with `step: 0` only if it is not there."},
        "sequence_end": BOOLEAN | {"description": "End the session after this step."},
        "step": integer("The position that the client believes the session to be at.", most=MAX_STEP),
        "generation": integer("The generation of the last answer.", most=MAX_STEP),
        "horizon": integer("Forecast that many steps.", most=LIMITS.max_horizon),
        "levels": one_of(integer(least=MIN_LEVEL, most=MAX_LEVEL), text("", pattern="^[0-9]+( *, *[0-9]+)*$"))
        | {"description": "With a horizon: of intervals, in percent, separated by commas."},
        "paths": integer("With levels, of a model of distributions: sampled paths.", least=1, most=LIMITS.max_paths),
        "commit": BOOLEAN | {"default": True, "description": "`false` answers and leaves the session where it is."},
    }
    ignored = {name: ELEMENT_PARAMETER | {"description": "Taken and not used."} for name in IGNORED}
    parameters = {name: (known | ignored)[name] for name in PARAMETERS}
    return record(parameters | {"binary_data_output": BOOLEAN | {"description": "All outputs as raw bytes."}})


def _request() -> Schema:
    properties: dict[str, Schema] = {
        "id": {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_ID, "description": "Echoed."},
        "model_name": TEXT | {"description": "Taken and not used: the path names the model."},
        "model_version": {"type": ["string", "null"], "minLength": 1, "description": "Refused where another version would answer."},
        "parameters": one_of(ref("InferParameters"), {"type": "null"}),
        "inputs": array(ref("InferInput"), least=1),
        "outputs": {"type": ["array", "null"], "items": ref("InferRequestedOutput")},
    }
    return record({name: properties[name] for name in REQUEST_FIELDS}, ["inputs"])


def _output() -> Schema:
    properties: dict[str, Schema] = {
        "name": TEXT,
        "datatype": choice((FP32, INT64, INT32, BYTES)),
        "shape": _shape(0),
        "data": array(ELEMENT, "The elements in row-major order; `null` is not a number."),
        "parameters": record({"binary_data_size": integer("The bytes of this tensor behind the JSON header.")}),
    }
    return record(properties, ["name", "datatype", "shape"])


def _reply() -> Schema:
    status = record(
        {
            "sequence_id": ref("SessionId"),
            "step": integer("The steps that the session has consumed."),
            "generation": integer("How often it was rewound."),
            "replayed": BOOLEAN,
            "sequence_end": BOOLEAN,
            "rewarmed": BOOLEAN,
            "rebuilt": REBUILT,
        },
        ["sequence_id", "step", "generation", "replayed"],
        "Where the session of `sequence_id` is.",
    )
    properties: dict[str, Schema] = {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "parameters": status,
        "outputs": array(ref("InferOutput")),
    }
    return record(properties, ["model_name", "model_version", "outputs"])

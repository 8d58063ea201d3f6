"""The whole description: its paths, and the components that they refer to."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from handlers.protocols.base import JSON
from handlers.protocols.open_inference.codec import BINARY
from openapi import errors, examples, kserve_v1, links, native, open_inference
from openapi.examples import Example
from openapi.schema import Schema, integer, one_of, record, ref, text

OPENAPI = "3.1.0"
VERSION = "1"  # of the API
HEADER_LENGTH = "Inference-Header-Content-Length"
NATIVE = "Native"  # begins the names of responses that are components
DESCRIPTION = """\
Trained LSTMs, served with their memory. One service answers in three protocols; sessions belong to the model and not to a protocol,
so that the retry of a step may come through another one. Limits are those of docs/settings.md unless configured otherwise. A body may
be compressed, with `Content-Encoding: gzip`. Every status from 400 up closes the connection.
"""


def document() -> dict[str, Any]:
    """Return the description as an OpenAPI document."""
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "Cellstate",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:8080"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [{"name": name, "description": said} for name, said in TAGS.items()],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: docs/keys.md."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
            },
            "schemas": native.schemas() | open_inference.schemas() | kserve_v1.schemas() | errors.schemas(),
            "requestBodies": {NATIVE: _native_body()},
            "responses": _native_responses(),
        },
    }


def as_yaml() -> str:
    """Return the description as YAML."""
    copies = json.loads(json.dumps(document()))  # an object that occurs twice would be an alias, which not every reader knows
    written = yaml.safe_dump(copies, sort_keys=False, allow_unicode=True, width=140)
    return f"# Written by `python -m openapi`; a test compares it with the code.\n{written}"


TAGS = {
    "native": "The service's own protocol: docs/api.md.",
    "Open Inference Protocol": "Version 2, as Triton's and KServe's clients speak it: docs/open-inference.md.",
    "KServe V1": "Windows in, predictions out: docs/kserve-v1.md.",
    "health": "For load balancers.",
}


def _path_parameter(name: str, description: str, pattern: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


MODEL = _path_parameter("model", "The model's name; its default version answers.", "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
MODEL_VERSION = _path_parameter("version", "The model's version.", "^[0-9]+([.][0-9]+)*$")


def _paths() -> dict[str, Any]:
    return {
        "/predictions/{model}": {"post": _native("predict", [MODEL])},
        "/predictions/{model}/{version}": {"post": _native("predictWithVersion", [MODEL, MODEL_VERSION])},
        "/v2/models/{model}/infer": {"post": _open_inference()},
        "/v1/models/{model}:predict": {"post": _kserve_v1()},
        "/ping": {"get": _ping()},
    }


def _native(name: str, parameters: Sequence[Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": ["native"],
        "summary": "Predict, stream, forecast; or ask something of a session",
        "description": "Takes the other protocols' bodies, too, and answers them in their form.",
        "parameters": list(parameters),
        "requestBody": ref(NATIVE, "requestBodies"),
        "responses": {name.removeprefix(NATIVE): ref(name, "responses") for name in _native_responses()},
    }


def _native_body() -> dict[str, Any]:
    """Return the body of requests to the native protocol's paths, which take the others, too; a component, for two paths share it."""
    asked = one_of(*(ref(name) for name in ("Request", "BatchRequest", "InferRequest", "WindowsRequest")))
    return {"required": True, "content": {JSON: {"schema": asked, **_requests(examples.NATIVE)}}}


def _native_responses() -> dict[str, Any]:
    """Return the responses of the native protocol, as components."""
    schema = one_of(*(ref(name) for name in ("Reply", "BatchReply", "InferReply", "WindowsReply")))
    reply = {
        "description": "The reply, in the protocol of the request.",
        "content": {JSON: {"schema": schema}},
        "links": links.of_session("predict"),
    }
    return {f"{NATIVE}{status}": response for status, response in _responses(reply, True, examples.NATIVE).items()}


def _open_inference() -> dict[str, Any]:
    header = integer("The bytes of the JSON header, before the raw bytes of the tensors.")
    binary: Schema = {"type": "string", "format": "binary"}
    reply = {
        "description": "The outputs; as raw bytes behind a JSON header where the request asks for them.",
        "headers": {
            HEADER_LENGTH: {
                "description": "With raw bytes: the bytes of the JSON header.",
                "schema": {"type": "string", "pattern": "^[0-9]+$"},
            }
        },
        "content": {JSON: {"schema": ref("InferReply")}, BINARY: {"schema": binary}},
    }
    return {
        "operationId": "infer",
        "tags": ["Open Inference Protocol"],
        "summary": "Predict, stream, forecast; many sessions in one request",
        "parameters": [MODEL, {"name": HEADER_LENGTH, "in": "header", "schema": header, "description": "With raw bytes."}],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": ref("InferRequest"), **_requests(examples.OPEN_INFERENCE)}, BINARY: {"schema": binary}},
        },
        "responses": _responses(reply, False, examples.OPEN_INFERENCE),
    }


def _kserve_v1() -> dict[str, Any]:
    asked = one_of(ref("WindowsRequest"), ref("BatchRequest"))
    reply = {"description": "The predictions.", "content": {JSON: {"schema": one_of(ref("WindowsReply"), ref("BatchReply"))}}}
    return {
        "operationId": "predictWindows",
        "tags": ["KServe V1"],
        "summary": "Predict windows; or native requests, as instances",
        "parameters": [MODEL],
        "requestBody": {"required": True, "content": {JSON: {"schema": asked, **_requests(examples.KSERVE_V1)}}},
        "responses": _responses(reply, True, examples.KSERVE_V1),
    }


def _ping() -> dict[str, Any]:
    status = record({"status": text("`Healthy`, or what is wrong.")}, ["status"])
    answers = {
        str(code): {"description": said, "content": {JSON: {"schema": status}}}
        for code, said in ((200, "The server is up."), (500, "No model has a worker."))
    }
    return {"operationId": "ping", "tags": ["health"], "summary": "Whether the server is up", "security": [], "responses": answers}


def _requests(shown: Sequence[Example]) -> dict[str, Any]:
    found = {example.name: {"summary": example.summary, "value": example.request} for example in shown}
    return {"examples": found} if found else {}


def _responses(reply: dict[str, Any], native_form: bool, shown: Sequence[Example]) -> dict[str, Any]:
    """Return the responses of an operation, with the answers of the examples."""
    found = {"200": reply} | errors.responses(native_form)
    for status, response in found.items():
        answers = {example.name: {"value": example.answer} for example in shown if str(example.status) == status}
        if answers:
            response["content"][JSON]["examples"] = answers
    return found

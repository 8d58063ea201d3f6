"""Short ways to write JSON Schema (2020-12), the dialect of OpenAPI 3.1."""

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def text(description: str, **more: Any) -> Schema:
    """Return the schema of a string."""
    return {"type": "string", "description": description, **more}


def constant(value: str) -> Schema:
    """Return the schema of one string."""
    return {"type": "string", "const": value}


def choice(values: Sequence[str]) -> Schema:
    """Return the schema of one of some strings."""
    return {"type": "string", "enum": list(values)}


def integer(description: str = "", least: int = 0, most: int | None = None) -> Schema:
    """Return the schema of an integer from `least` to `most`."""
    bounds = {"minimum": least} | ({} if most is None else {"maximum": most})
    return {"type": "integer", **bounds, **({"description": description} if description else {})}


def array(items: Schema, description: str = "", least: int = 0, most: int | None = None) -> Schema:
    """Return the schema of a list of `least` to `most` items."""
    bounds = ({"minItems": least} if least else {}) | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": items, **bounds, **({"description": description} if description else {})}


def record(properties: Mapping[str, Schema], required: Sequence[str] = (), description: str = "", **more: Any) -> Schema:
    """Return the schema of an object that has these properties and no others."""
    head: Schema = {"type": "object"} | ({"description": description} if description else {})
    names = {"required": list(required)} if required else {}
    return {**head, "properties": dict(properties), **names, "additionalProperties": False, **more}


def one_of(*schemas: Schema, description: str = "") -> Schema:
    """Return the schema of a value that is exactly one of these."""
    return {"oneOf": list(schemas), **({"description": description} if description else {})}


def matrix(description: str) -> Schema:
    """Return the schema of `[n, k]` numbers."""
    return array(array(NUMBER), description)


REBUILT = text(
    "How close a rebuilt state is to that of the whole stream: `exact within the tolerance`, `within` a difference relative to the scale "
    "of the values, or `unknown`."
)

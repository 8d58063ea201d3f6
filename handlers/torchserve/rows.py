"""How TorchServe hands over the requests of a batch, and takes their responses back."""

import json
from collections.abc import Mapping
from typing import Any

from handlers.protocols.base import KSERVE, HttpRequest, HttpResponse


def read_request(row: Mapping[str, Any], context: Any, i: int) -> HttpRequest:
    """Return row i of a batch as it came over HTTP.

    TorchServe puts the fields of a form among the headers, with an object each: a field may have any header's name, and is left out.
    """
    headers = {name.lower(): value for name, value in context.get_all_request_header(i).items() if isinstance(value, str)}
    return HttpRequest(_body(row), headers, _path(headers), context.get_request_id(i) or "")


def _path(headers: Mapping[str, str]) -> str:
    """Return what TorchServe tells of the URL's path, which is little.

    Of `/predictions/{model}/{version}/…` it tells what follows the version, in a header. On the routes of KServe's protocols, `/v1/…` and
    `/v2/…`, that header is missing. Source: `InferenceRequestHandler.java` of TorchServe 0.12.0.
    """
    if "url_path" in headers:
        return f"/{headers['url_path']}" if headers["url_path"] else ""
    return KSERVE if "explain" in headers else ""


def _body(row: Mapping[str, Any]) -> bytes:
    """Return the body, which TorchServe passes raw, decoded, or as the one field of a form."""
    value = row.get("body", row.get("data", b""))
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def write_head(context: Any, i: int, response: HttpResponse) -> None:
    """Set content type, headers and status of response i. TorchServe sends a status other than 200 only with a phrase."""
    context.set_response_content_type(i, response.content_type)
    for name, value in response.headers.items():
        context.set_response_header(i, name, value)
    if response.status != 200:
        context.set_response_status(response.status, response.phrase, i)

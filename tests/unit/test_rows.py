"""What TorchServe hands over of a request: its headers, its body, and how much of its path."""

import pytest
from ts.context import Context, RequestProcessor

from handlers.torchserve import rows


def context(headers):
    made = Context("two", ".", {}, None, None, None)
    made.request_processor = [RequestProcessor(headers)]
    return made


def test_a_field_of_a_form_is_no_header():
    fields = {name: {"content-type": b"text/plain"} for name in ("data", "Content-Encoding", "inference-header-content-length", "url_path")}
    request = rows.read_request({"data": b"{}"}, context(fields | {"Accept": "*/*"}), 0)
    assert (request.headers, request.path, request.body) == ({"accept": "*/*"}, "", b"{}")


@pytest.mark.parametrize(
    ("headers", "body", "path"),
    [
        ({}, b"{}", ""),
        ({"url_path": "", "explain": "False"}, b"{}", ""),  # /predictions/two
        (
            {"Url_Path": "v2/models/two/infer", "explain": "False"},
            b"{}",
            "/v2/models/two/infer",
        ),  # /predictions/two/1.0/v2/models/two/infer
        ({"explain": "False"}, b'{"inputs": []}', "/v"),  # /v2/models/two/infer
        ({"explain": "False"}, b'{"instances": []}', "/v"),  # /v1/models/two:predict
    ],
)
def test_the_path_is_what_torchserve_tells_of_it(headers, body, path):
    assert rows.read_request({"body": body}, context(headers), 0).path == path

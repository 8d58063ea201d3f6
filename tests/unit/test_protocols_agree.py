"""A window is the same request, or refused with the same code, in every protocol: a retry may come through another one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.engine.request import Request
from handlers.errors import CellstateError
from handlers.protocols.base import HttpRequest
from handlers.protocols.kserve_v1 import KServeV1Codec
from handlers.protocols.native.codec import NativeCodec
from handlers.protocols.open_inference.codec import OpenInferenceCodec
from handlers.settings import Settings
from handlers.signature import Signature
from tests.support.open_inference_client import request
from tests.support.signatures import FIXED, METER, TRAFFIC, WHOLE, WORDS

LIMITS = Settings(max_steps=4)
SIGNATURES = {
    "three features": TRAFFIC,
    "one feature": METER,
    "token ids": WORDS,
    "whole windows": WHOLE,
    "windows of three steps": FIXED,
    "features that are more than numbers": replace(TRAFFIC, ids={"hour": 24}, ranges={"rain": (1, 8)}, nonnegative=("flow",)),
}
NUMBERS = st.one_of(
    st.integers(0, 12), st.sampled_from([-0.0, 0.5, 23, 24, 1e-46, 3.4e38, 1e39, -1e39, 2**24 + 1, 2**53 + 1]), st.floats(-1e3, 1e3)
)


def outcome(found: Request | CellstateError) -> object:
    if isinstance(found, CellstateError):
        return found.code
    assert found.inputs is not None
    return str(found.inputs.tolist()), found.inputs.dtype, found.request_hash(), found.missing


@pytest.mark.parametrize("name", SIGNATURES)
@given(data=st.data())
def test_a_window_is_the_same_request_in_every_protocol(name: str, data: st.DataObject) -> None:
    signature: Signature = SIGNATURES[name]
    width = len(signature.features) or 1
    items = NUMBERS | st.none() if not signature.tokens else st.integers(-1, 12)
    rows = data.draw(st.lists(st.lists(items, min_size=width, max_size=width), min_size=1, max_size=5))
    x = [row[0] for row in rows] if signature.tokens else rows
    array = np.array([x], np.int64 if signature.tokens else np.float64)  # None becomes NaN
    sent = {
        NativeCodec: HttpRequest(json.dumps({"inputs": x}).encode()),
        KServeV1Codec: HttpRequest(json.dumps({"instances": [x]}).encode()),
        OpenInferenceCodec: request(data.draw(st.booleans()), inputs={"x": array}),
    }
    native, *others = (codec(signature, LIMITS).decode(body).requests[0] for codec, body in sent.items())
    assert [outcome(found) for found in others] == [outcome(native)] * 2

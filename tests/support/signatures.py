"""Signatures written by hand, for tests that need no model."""

from dataclasses import replace

from handlers.signature import Signature, StateEntry

STATE = (StateEntry("h", 2, 5), StateEntry("c", 2, 8))  # 2 layers, P=5, H=8: S = 26

TRAFFIC = Signature(
    name="traffic",
    version="1.0",
    task="forecast",
    outputs=("flow",),
    output_mode="sequence",
    state=STATE,
    output_size=5,
    model_digest="ab" * 32,
    features=("flow", "hour", "rain"),
    feedback={"flow": "flow"},
)
RETRAINED = replace(TRAFFIC, version="2.0", model_digest="cd" * 32)
METER = replace(TRAFFIC, name="meter", features=("flow",))
WORDS = replace(TRAFFIC, name="words", features=(), vocabulary=11, feedback={}, task="classify")
WHOLE = replace(TRAFFIC, name="whole", streaming=False, streaming_reason="cut at [1], y differs by 2.8e-02")
FIXED = replace(WHOLE, name="fixed", min_steps=3, max_steps=3)
KERNEL = replace(WHOLE, name="kernel", min_steps=2)

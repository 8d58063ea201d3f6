"""`tritonclient.http` and its asyncio twin against a server: `ADDRESS TOKEN MODEL INPUTS`. Prints what came back as JSON.

`INPUTS` is a file of `[2, T, F]` numbers: two streams.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.http import InferenceServerClientPlugin
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


class Token(InferenceServerClientPlugin):
    """Adds the token to each request, as the client's own plugins do."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> None:
        request.headers["Authorization"] = f"Bearer {self._token}"


def tensor(name: str, array: np.ndarray, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def main(address: str, token: str, model: str, inputs: str) -> None:
    x = np.array(json.loads(Path(inputs).read_text()), np.float32)
    with triton.InferenceServerClient(address) as client:
        client.register_plugin(Token(token))
        found = windows(client, model, x) | sequences(client, model, x) | many(client, model, x)
        found["error"] = error(client, model, x)
    found["versions"] = versions(address, Token(token), model, x)
    found["aio"] = asyncio.run(windows_aio(address, Token(token), model, x))
    print(json.dumps(found))


def windows(client: Any, model: str, x: np.ndarray) -> dict[str, Any]:
    """Plain windows: raw bytes, JSON, chosen outputs, asynchronously."""
    raw = client.infer(model, [tensor("x", x)], request_id="7")
    chosen = [triton.InferRequestedOutput("y", binary_data=False), triton.InferRequestedOutput("h_n", binary_data=True)]
    plain = client.infer(model, [tensor("x", x, binary=False)], outputs=chosen)
    later = client.async_infer(model, [tensor("x", x)]).get_result()
    return {
        "id": raw.get_response()["id"],
        "binary": raw.as_numpy("y").tolist(),
        "json": plain.as_numpy("y").tolist(),
        "h_n": plain.as_numpy("h_n").tolist(),
        "async": later.as_numpy("y").tolist(),
    }


def sequences(client: Any, model: str, x: np.ndarray) -> dict[str, Any]:
    """Two interleaved sequences, as in the client's own example: once with integer ids, once with strings; then once more, anew."""
    found: dict[str, list[Any]] = {}
    for ids in ((1007, 1008), ("seven", "eight"), (1007, 1008)):
        for t in range(x.shape[1]):
            for id, rows in zip(ids, x, strict=True):
                last = t == x.shape[1] - 1
                result = client.infer(model, [tensor("x", rows[None, t : t + 1])], sequence_id=id, sequence_start=t == 0, sequence_end=last)
                found[str(id)] = result.as_numpy("y")[0].tolist()
    return {"sequences": found}


def many(client: Any, model: str, x: np.ndarray) -> dict[str, Any]:
    """Two sessions in one request, one of which is refused."""
    sessions = tensor("session", np.array([b"one", b"two"], object))
    first = client.infer(model, [tensor("x", x), sessions, tensor("step", np.zeros(2, np.int64))])
    second = client.infer(model, [tensor("x", x), sessions, tensor("step", np.array([x.shape[1], 99]))])
    return {
        "many": first.as_numpy("y").tolist(),
        "status": second.as_numpy("status").tolist(),
        "step": second.as_numpy("step").tolist(),
        "refused": bool(np.isnan(second.as_numpy("y")[1]).all()),
    }


def error(client: Any, model: str, x: np.ndarray) -> list[str | None]:
    return attempt(client, model, x[..., :1])[1:]


def attempt(client: Any, model: str, x: np.ndarray, **more: Any) -> list[Any]:
    """The prediction, or None with status and message of the error."""
    try:
        return [client.infer(model, [tensor("x", x)], **more).as_numpy("y").tolist()]
    except InferenceServerException as e:
        return [None, e.status(), e.message()]


def versions(address: str, token: Token, model: str, x: np.ndarray) -> dict[str, Any]:
    """A version of the model, asked for in the protocol's path, and through the URL of a version."""
    found = {}
    for name, url in (("server", address), ("version", f"{address}/predictions/{model}/1.0")):
        with triton.InferenceServerClient(url) as client:
            client.register_plugin(token)
            found[name] = {version: attempt(client, model, x, model_version=version) for version in ("", "1.0", "2.0")}
    return found


async def windows_aio(address: str, token: Token, model: str, x: np.ndarray) -> list[Any]:
    async with triton_aio.InferenceServerClient(address) as client:
        client.register_plugin(token)
        results = await asyncio.gather(*(client.infer(model, [tensor("x", row[None])]) for row in x))
    return [result.as_numpy("y")[0].tolist() for result in results]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The inference client of KServe's SDK against a server, in both protocols: `URL TOKEN MODEL INPUTS`. Prints what came back as JSON."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, token: str, model: str, inputs: str) -> None:
    x, headers = np.array(json.loads(Path(inputs).read_text()), np.float32), {"Authorization": f"Bearer {token}"}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        v1 = await client.infer(url, {"instances": x.tolist()}, model_name=model, headers=dict(headers))
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        v2 = {name: await infer(client, url, model, x, headers, name == "binary") for name in ("json", "binary")}
        found = {"v1": v1["predictions"], **v2, "error": await error(client, url, model, x, headers)}
        found["version"] = await infer(client, f"{url}/predictions/{model}/1.0", model, x, headers, binary=True)
    print(json.dumps(found))


async def infer(client: Any, url: str, model: str, x: np.ndarray, headers: dict[str, str], binary: bool) -> Any:
    tensor = InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    request = InferRequest(model_name=model, infer_inputs=[tensor], parameters={"binary_data_output": binary})
    response = await client.infer(url, request, model_name=model, headers=dict(headers))
    return response.outputs[0].as_numpy().tolist()


async def error(client: Any, url: str, model: str, x: np.ndarray, headers: dict[str, str]) -> str:
    try:
        await infer(client, url, model, x[..., :1], headers, binary=False)
    except httpx.HTTPStatusError as e:
        return str(e)
    return ""


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

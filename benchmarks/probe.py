"""Drives the handler of one unpacked archive, for `benchmarks.versions`: `python probe.py FOLDER STORE`.

It uses nothing but the handler file's own interface, which is the same in every release. Each line of standard input is a JSON object
with the requests of one batch, as `bodies`; each line of the answer has the seconds that it took, of the processor and by the clock.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


class Context:
    """What a handler asks of TorchServe's context."""

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        self.system_properties = {"model_dir": folder}
        self.model_yaml_config = {"cellstate": settings}
        self.statuses: list[int] = []

    def get_all_request_header(self, i: int) -> dict[str, str]:
        return {"content-type": "application/json"}

    def get_request_id(self, i: int) -> str:
        return str(i)

    def get_request_header(self, i: int, name: str) -> str | None:
        return None

    def set_response_content_type(self, i: int, value: str) -> None:
        pass

    def set_response_header(self, i: int, name: str, value: str) -> None:
        pass

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.statuses.append(code)


def main(folder: str, store: str) -> None:
    sys.path.insert(0, folder)
    import torch

    from handlers.lstm_handler import LstmHandler

    torch.set_num_threads(1)
    output, sys.stdout = sys.stdout, sys.stderr  # a worker's standard output is for its metrics
    settings = {"store": store, "device": "cpu", "store_bytes": 4 << 30, "max_instances": 4096, "metrics_interval": 0}
    context, handler = Context(folder, settings), LstmHandler()
    handler.initialize(context)
    for line in sys.stdin:
        rows = [{"body": body.encode()} for body in json.loads(line)["bodies"]]
        cpu, wall = time.process_time(), time.perf_counter()
        answers = handler.handle(rows, context)
        taken = time.process_time() - cpu, time.perf_counter() - wall
        assert not context.statuses, answers[0]
        assert not any(b'"error"' in answer for answer in answers), answers[0][:500]
        print(json.dumps(taken), file=output, flush=True)


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()), sys.argv[2])

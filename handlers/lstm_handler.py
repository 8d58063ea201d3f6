"""The TorchServe handler: rows and context on one side, the front end on the other.

An exception out of `handle` fails the whole batch, so that none leaves it. TorchServe demands that this file defines exactly one class.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.errors import ConfigurationError
from handlers.protocols.frontend import Frontend
from handlers.torchserve import rows, worker

log = logging.getLogger("cellstate")


class LstmHandler:
    """What TorchServe calls: `initialize` once in each worker, then `handle` for every batch."""

    def __init__(self) -> None:
        self._frontend: Frontend | None = None

    def initialize(self, context: Any) -> None:
        """Load the model, and open the store or go on without it.

        Raises:
            ConfigurationError: TorchServe reports the error and tries a new worker.
        """
        folder = Path(context.system_properties["model_dir"])
        try:
            self._frontend = worker.start(folder, context.model_yaml_config or {}, os.environ)
        except ConfigurationError as e:
            log.error("refused_to_start %s", e.message)
            raise

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer one batch; row i of the result answers row i of `data`."""
        assert self._frontend is not None  # TorchServe calls `initialize` first
        requests = [rows.read_request(row, context, i) for i, row in enumerate(data)]
        responses = self._frontend.handle_batch(requests)
        for i, response in enumerate(responses):
            rows.write_head(context, i, response)
        return [response.body for response in responses]

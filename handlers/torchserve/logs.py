"""The log of a worker: lines on its standard output, which TorchServe passes on, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime

from handlers.settings import Settings

TEXT = "cellstate %(levelname)s %(message)s"


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object. The first word of a message is its `event`; a record's `fields` become members."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": message.partition(" ")[0],
        }
        fields = getattr(record, "fields", None)
        document |= {"message": message} if fields is None else fields
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def configure(settings: Settings) -> None:
    """Write this service's lines from INFO up, and those of TorchServe's worker only from WARNING up.

    TorchServe parses every line of a worker's output, and its worker writes `Backend received inference…` for each request.
    """
    logging.getLogger().setLevel(logging.WARNING)
    log = logging.getLogger("cellstate")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(JsonFormatter() if settings.log_format == "json" else logging.Formatter(TEXT))
        log.addHandler(handler)
        log.propagate = False

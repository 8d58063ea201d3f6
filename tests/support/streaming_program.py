"""A program that streams a file of inputs through one session, from wherever the session is: `URL KEY_FILE MODEL ID INPUTS`."""

import json
import sys
from pathlib import Path

from cellstate import Client


def main(url: str, key_file: str, model: str, id: str, inputs: str) -> None:
    """Print the position after each step."""
    rows = json.loads(Path(inputs).read_text())
    with Client(url, Path(key_file)) as client, client.stream(model, id) as stream:
        for row in rows[stream.position :]:
            stream.step([row])
            print(stream.position, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`python -m tests.registry.driver WORDS…` is `modelbake WORDS…`, with the short waits and small parts that TESTS_SET orders.

TESTS_SET is a JSON object: `pause`, the longest wait in seconds between two tries, and dotted names of constants with their values.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading

from modelbake import patience
from modelbake.cli import main


def run() -> int:
    """The command of this process's own words."""
    orders = json.loads(os.environ.pop("TESTS_SET", "{}"))
    longest = float(orders.pop("pause", 0.01))

    def pause(stop: threading.Event, seconds: float) -> None:
        stop.wait(min(seconds, longest))

    patience.pause = pause
    for name, value in orders.items():
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, attribute), name
        setattr(found, attribute, value)
    return main.run()


if __name__ == "__main__":
    sys.exit(run())

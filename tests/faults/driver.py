"""The command line with the small family in place of torch's, with orders for faults, in forks of one process that has all imports.

A JSON object a line comes in and goes out: `start` (words, environ, out, err, fault, file_limit) answers with the pid, `wait`
(pid) with the exit code, negative for a signal. A fork costs some 50 ms; a new process would cost a second each.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from typing import Any

from modelbake.cli import main
from modelbake.export.families import FAMILIES, Family
from tests.faults.injection import Fault

PRELOADED = (
    "filelock",
    "httpx2",
    "huggingface_hub.hf_api",
    "modelbake.cli.build",
    "modelbake.cli.fetch",
    "modelbake.cli.verify",
    "modelbake.pipeline",
    "modelbake.verify",
    "onnxruntime",
    "tests.faults.exporter",
)


def serve() -> None:
    """Obey orders until standard input ends."""
    FAMILIES["text_encoder"] = Family("tests.faults.exporter", (), ("numpy",))
    for module in PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "start":
            pid = os.fork()
            if pid == 0:
                _child(order)
            answer = {"pid": pid}
        else:
            _, status = os.waitpid(order["pid"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        print(json.dumps(answer), flush=True)


def _child(order: dict[str, Any]) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(order["out"], os.O_WRONLY), 1)
        os.dup2(os.open(order["err"], os.O_WRONLY), 2)
        os.environ.clear()
        os.environ.update(order["environ"])
        if order["file_limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"],) * 2)
        trace = os.open(order["trace"], os.O_WRONLY)
        Fault(**order["fault"], trace=trace).install()
        code = main.run(order["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()

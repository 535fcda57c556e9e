"""Serve a folder as a Hugging Face hub: `python -m tests.hub FOLDER --port 0`. The first line out is the endpoint."""

import argparse
import dataclasses
import json
import signal
import sys
import threading
from pathlib import Path

from tests.hub.server import Hub


def parse_fault(text: str) -> dict[str, object]:
    """`kind=status,match=*.bin,status=429,times=2` as keyword arguments of Faults.add; `times=none` means always."""

    def typed(value: str) -> object:
        return None if value == "none" else int(value) if value.isdigit() else value

    return {name: typed(value) for name, value in (pair.split("=", 1) for pair in text.split(","))}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description="A local Hugging Face hub for tests.")
    parser.add_argument("folder", type=Path, help="holds a folder <organisation>/<name> per repository, or see --repo")
    parser.add_argument("--repo", help="FOLDER itself is this one repository")
    parser.add_argument("--commit", help="the commit's id with --repo; by default git's own for the content")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; 0.0.0.0 lets containers in")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--private", metavar="TOKEN", help="only this token sees the repositories")
    parser.add_argument("--gated", metavar="TOKEN", help="only this token downloads from the repositories")
    parser.add_argument("--fault", action="append", default=[], type=parse_fault, help=parse_fault.__doc__)
    parser.add_argument("--log", type=Path, help="write all requests there at the end, one JSON object a line")
    options = parser.parse_args()
    folders = {options.repo: options.folder} if options.repo else _repositories(options.folder)
    if not folders:
        parser.error(f"{options.folder} holds no folder <organisation>/<name>; name the repository with --repo")

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Hub(options.host, options.port, cdn_port=options.cdn_port) as hub:
        for name, folder in folders.items():
            hub.add_repo(name, folder, commit=options.commit, private=options.private, gated=options.gated)
        for fault in options.fault:
            hub.faults.add(**fault)
        print(hub.endpoint, flush=True)
        for repo in hub.repos.values():
            print(f"{repo.id}@{repo.branches['main']}", flush=True)
        print("ready", flush=True)
        stop.wait()
        if options.log is not None:
            options.log.write_text("".join(json.dumps(dataclasses.asdict(request)) + "\n" for request in hub.log))
    return 0


def _repositories(root: Path) -> dict[str, Path]:
    found = sorted(path for path in root.glob("*/*") if path.is_dir())
    return {path.relative_to(root).as_posix(): path for path in found}


if __name__ == "__main__":
    sys.exit(main())

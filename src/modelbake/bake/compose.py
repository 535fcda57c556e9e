"""What `docker compose` needs of this host, as a compose.override.yaml beside compose.yaml, which Compose reads by itself.

The same inputs as a bake's: secrets for the image's build and for the service that fetches, never arguments or layers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from modelbake.bake.host import CA_BUNDLE, WHEELS, HostInputs
from modelbake.errors import RefusedError
from modelbake.files import disk_errors, write_atomically

OVERRIDE_NAME = "compose.override.yaml"
# For pip's configuration, which may hold credentials.
SECRETS_NAME = ".compose"
# The first line of what this module writes, by which it knows its own file.
MARK = "# Written by `make compose` for this host; not for git."


def override(host: HostInputs, pip_conf: Path) -> dict[str, Any]:
    """The services of compose.yaml with this host's inputs, its pip.conf being at `pip_conf`; empty where it has none of them."""
    places = {}
    if host.pip_conf is not None:
        places["pipconf"] = (pip_conf, "/etc/pip.conf")
    if host.ca_bundle is not None:
        places["ca"] = (host.ca_bundle, CA_BUNDLE)
    build: dict[str, Any] = {}
    fetching: dict[str, Any] = {}
    if places:
        build["secrets"] = list(places)
        fetching["secrets"] = [{"source": name, "target": target} for name, (_, target) in places.items()]
    if host.wheels is not None:
        wheels = str(host.wheels.resolve())
        build["additional_contexts"] = {"wheels": wheels}
        fetching["volumes"] = [{"type": "bind", "source": wheels, "target": WHEELS, "read_only": True}]
    if not build:
        return {}
    found: dict[str, Any] = {"services": {"model-converter": {"build": build}, "weights": fetching}}
    if places:
        found["secrets"] = {name: {"file": str(file.resolve())} for name, (file, _) in places.items()}
    return found


def write_override(root: Path, host: HostInputs, owner: int | None = None) -> Path | None:
    """Write the override into the project's folder, and pip.conf below it in a folder that only this user may enter.

    Root gives that folder to `owner`, a user's number, where there is one: docker's client reads the secrets of a build.

    Returns the override's path; None where this host needs none, and then an earlier one is gone. RefusedError where there is
    one that somebody else wrote.
    """
    path, pip_conf = root / OVERRIDE_NAME, root / SECRETS_NAME / "pip.conf"
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise RefusedError(
            f"{path} is not of modelbake's making and stays as it is. Give it another name and run this again; COMPOSE_FILE then takes "
            "all three files."
        )
    found = override(host, pip_conf)
    with disk_errors(root):
        pip_conf.unlink(missing_ok=True)
        if not found:
            path.unlink(missing_ok=True)
            return None
    if host.pip_conf is not None:
        _write_secret(pip_conf, host.pip_conf, owner)
    # JSON, which every reader of YAML reads. A dollar sign would be a variable to Compose.
    text = json.dumps(found, indent=2).replace("$", "$$")
    write_atomically(path, f"{MARK}\n{text}\n".encode())
    return path


def _write_secret(path: Path, text: str, owner: int | None) -> None:
    """Kept from others by its folder, which a container does not see: there, whatever user it runs as has to read the file."""
    with disk_errors(path.parent):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.parent.chmod(0o700)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o444)
        if owner is not None and os.geteuid() == 0:
            os.chown(path.parent, owner, -1)

"""What this host's builds need of it: pip's configuration, its wheel folder, a CA bundle, a token; only what exists.

All but the folder goes in as build secrets: none of it is in a layer, an argument, a label or the history.
"""

from __future__ import annotations

import ast
import configparser
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from modelbake.settings import Settings

# Where the Dockerfiles mount them.
WHEELS = "/mnt/wheels"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# What of pip's configuration decides where packages come from.
_KEYS = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "find-links",
    "proxy",
    "no-index",
    "only-binary",
    "prefer-binary",
    "timeout",
    "default-timeout",
    "retries",
)
# Options whose words are addresses or local paths.
_PLACES = ("index-url", "extra-index-url", "find-links")


@dataclass(frozen=True)
class HostInputs:
    """What to hand to the build: the text of a pip.conf, the wheel folder, the CA bundle, the hub token; None where there is none."""

    pip_conf: str | None
    wheels: Path | None
    ca_bundle: Path | None
    hub_token: str | None


def host_inputs(settings: Settings) -> HostInputs:
    """What this host has of them."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    configured = parse_pip_config(listed)
    cert = Path(configured["cert"]) if configured.get("cert") else None
    ca_bundle = settings.ca_bundle or (cert if cert and cert.is_file() else None)
    text, wheels = build_pip_conf(configured, with_ca=ca_bundle is not None)
    return HostInputs(text, wheels, ca_bundle, settings.hub_token)


def parse_pip_config(listed: str) -> dict[str, str]:
    """Option to value from the lines `scope.option='value'` of `pip config list`; the environment's win, as in pip."""
    found: dict[str, str] = {}
    from_environment: dict[str, str] = {}
    for line in listed.splitlines():
        name, separator, value = line.partition("=")
        scope, _, option = name.rpartition(".")
        if not separator or scope not in ("global", "install", ":env:"):
            continue
        try:
            text = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue
        (from_environment if scope == ":env:" else found)[option] = text
    return found | from_environment


def build_pip_conf(configured: dict[str, str], with_ca: bool) -> tuple[str | None, Path | None]:
    """A pip.conf that means inside a build what `configured` means here, and the local wheel folder that it leads to.

    The first local folder of find-links is mounted at WHEELS; other local folders and local indexes stay behind, since a build
    cannot see them.
    """
    kept: dict[str, str] = {}
    wheels: Path | None = None
    for option in _KEYS:
        if option not in configured:
            continue
        words = configured[option].split()
        remote = [word for word in words if option not in _PLACES or _is_remote(word)]
        if option == "find-links":
            folders = [folder for word in words if not _is_remote(word) and (folder := _local_folder(word)).is_dir()]
            if folders:
                wheels = folders[0]
                remote.append(WHEELS)
        if remote:
            kept[option] = "\n".join(remote)
    if with_ca:
        kept["cert"] = CA_BUNDLE
    if not kept:
        return None, wheels
    parser = configparser.RawConfigParser()
    parser["global"] = kept
    buffer = io.StringIO()
    parser.write(buffer)
    return buffer.getvalue(), wheels


def _is_remote(word: str) -> bool:
    """Whether pip would go to the network for it: all but addresses of the web is a path to pip."""
    return re.match("(?i)https?://", word) is not None


def _local_folder(word: str) -> Path:
    address = re.match("(?i)file:(?://[^/]*)?(.*)", word)
    return Path(unquote(address[1])) if address else Path(os.path.expanduser(word))

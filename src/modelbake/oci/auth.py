"""Credentials for registries as docker keeps them, and the tokens that registries give for them.

Formats: docker's config.json and the credential helpers' protocol (docker/docker-credential-helpers); the token flow of the
distribution project (spec/auth/token.md, spec/auth/oauth.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelbake.errors import IntegrityError, SourceUnreachableError

# Under these names docker keeps what is for Docker Hub.
_HUB_NAMES = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_HELPER_SECONDS = 60
# What a helper names the user of a secret that is a refresh token.
_IS_TOKEN = "<token>"


@dataclass(frozen=True)
class Credentials:
    """Who asks: a user and password, or a refresh token (docker calls it identity token) alone."""

    user: str = ""
    password: str = ""
    refresh_token: str = ""

    def __repr__(self) -> str:
        # A secret must not get into a message or a log.
        return f"Credentials(user={self.user!r})"

    def basic(self) -> str:
        """The Authorization header of user and password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Challenge:
    """A WWW-Authenticate header: its scheme in small letters, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge:
    """The header's challenge (RFC 9110, 11.6.1); one that is none has no scheme."""
    from urllib.request import parse_http_list

    scheme, _, rest = header.strip().partition(" ")
    found = {}
    for item in parse_http_list(rest):
        key, separator, value = item.partition("=")
        if separator:
            found[key.strip().lower()] = value.strip().strip('"')
    return Challenge(scheme.lower(), found)


def credentials_for(host: str, config_dir: Path) -> Credentials | None:
    """What docker's configuration has for that registry: its own credential helper, the common one, else the file itself.

    IntegrityError where config.json is none, SourceUnreachableError where a helper fails.
    """
    config = _read_config(config_dir / "config.json")
    names = (
        _HUB_NAMES if host == "docker.io" else (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    )
    helpers = config.get("credHelpers") or {}
    for name in names:
        if name in helpers:
            return _ask_helper(str(helpers[name]), name)
    entries = config.get("auths") or {}
    for name in names:
        entry = entries.get(name)
        if entry:
            return _decode(entry, name, config_dir)
    store = config.get("credsStore")
    return _ask_helper(str(store), names[0]) if store else None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise IntegrityError(
            f"{path} cannot be read ({error.strerror}); give yourself the right to read it."
        ) from error
    except ValueError as error:
        raise IntegrityError(f"{path} is no JSON ({error}); correct it, or `docker login` again.") from error
    if not isinstance(config, dict) or not all(
        isinstance(config.get(key) or {}, dict) for key in ("auths", "credHelpers")
    ):
        raise IntegrityError(f"{path} is no configuration of docker; correct it, or `docker login` again.")
    return config


def _decode(entry: Any, name: str, config_dir: Path) -> Credentials | None:
    try:
        if entry.get("identitytoken"):
            return Credentials(refresh_token=str(entry["identitytoken"]))
        if entry.get("auth"):
            user, separator, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            if not separator:
                raise ValueError("no colon in it")
            return Credentials(user, password.rstrip("\0"))
        if entry.get("username"):
            return Credentials(str(entry["username"]), str(entry.get("password", "")))
    except (AttributeError, ValueError, binascii.Error) as error:
        raise IntegrityError(
            f"{config_dir / 'config.json'}: the entry of {name} cannot be read; `docker login {name}` again."
        ) from error
    return None


def _ask_helper(helper: str, name: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=name, capture_output=True, text=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnreachableError(
            f"{program}, which docker's configuration names for {name}, cannot be run ({error}); install or correct it."
        ) from error
    if done.returncode != 0:
        if "credentials not found" in done.stdout + done.stderr:
            return None
        raise SourceUnreachableError(
            f"{program} gives no credentials for {name}: {(done.stdout + done.stderr).strip()[:200]}"
        )
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise SourceUnreachableError(
            f"{program} gave no credentials that can be read for {name}; correct it."
        ) from error
    return Credentials(refresh_token=secret) if user == _IS_TOKEN else Credentials(user, secret)

"""The settings: the only place that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from modelbake.errors import RefusedError, UsageError

WeightsPolicy = Literal["auto", "pretrained", "sample"]
WEIGHTS_POLICIES = ("auto", "pretrained", "sample")

POLICY_NAME = "modelbake.policy.toml"
PUBLIC_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Settings:
    """What the surroundings ask for; every field has its environment variable in `from_environment`."""

    root: Path
    models_dir: Path
    cache_dir: Path
    weights: WeightsPolicy
    hub_endpoint: str
    hub_token: str | None
    hub_offline: bool
    ca_bundle: Path | None
    threads: int | None
    # Of private keys that sign; None: ask on the terminal. Empty is a password too.
    key_password: str | None = field(default=None, repr=False)
    # No source is taken whose bytes are not pinned.
    locked: bool = False
    # Set by --offline alone: no source that needs a network is asked.
    offline: bool = False
    # The local store of bundles and images, an OCI layout.
    store_dir: Path = Path("store")
    # Whose signatures are asked for, if anybody's are.
    policy: Path | None = None
    # Where docker keeps its credentials.
    docker_config: Path = Path(".docker")
    # By host, so that no other registry sees it.
    registry_tokens: Mapping[str, str] = field(default_factory=dict)
    # The number of the user who became root by sudo.
    sudo_user: int | None = None

    @property
    def bundles_dir(self) -> Path:
        return self.root / "bundles"


def from_environment(environ: Mapping[str, str] = os.environ, directory: Path | None = None) -> Settings:
    """Settings from MODELBAKE_ROOT, MODELBAKE_MODELS, MODELBAKE_CACHE, WEIGHTS, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH,
    HF_HUB_OFFLINE, MODELBAKE_THREADS, MODELBAKE_LOCKED, MODELBAKE_STORE, MODELBAKE_REGISTRY_TOKEN, DOCKER_CONFIG,
    COSIGN_PASSWORD, SUDO_UID, and SSL_CERT_FILE, REQUESTS_CA_BUNDLE or PIP_CERT.

    The root is else the nearest folder above `directory` that has bundles/.
    """
    here = directory or Path.cwd()
    root = Path(environ["MODELBAKE_ROOT"]) if environ.get("MODELBAKE_ROOT") else _find_root(here)
    home = Path(environ.get("HOME", "/tmp"))
    cache_home = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    data_home = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return Settings(
        root=root,
        models_dir=Path(environ.get("MODELBAKE_MODELS") or root / "models"),
        cache_dir=Path(environ.get("MODELBAKE_CACHE") or cache_home / "modelbake"),
        weights=weights_policy(environ.get("WEIGHTS") or "auto"),
        hub_endpoint=_hub_endpoint(environ.get("HF_ENDPOINT") or PUBLIC_HUB),
        hub_token=environ.get("HF_TOKEN", "").strip() or _read_token(environ.get("HF_TOKEN_PATH")),
        hub_offline=_switch(environ.get("HF_HUB_OFFLINE", "")),
        ca_bundle=_first_file(environ, "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"),
        threads=_threads(environ.get("MODELBAKE_THREADS")),
        key_password=environ.get("COSIGN_PASSWORD"),
        locked=_switch(environ.get("MODELBAKE_LOCKED", "")),
        store_dir=Path(environ.get("MODELBAKE_STORE") or data_home / "modelbake" / "store"),
        policy=_find_policy(root) or _find_policy(here.absolute()),
        docker_config=Path(environ.get("DOCKER_CONFIG") or home / ".docker"),
        registry_tokens=_tokens(environ.get("MODELBAKE_REGISTRY_TOKEN", "")),
        sudo_user=_user(environ.get("SUDO_UID", "")),
    )


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY) has for that address, or None."""
    # Only where something is sent to another machine.
    import urllib.request

    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def weights_policy(text: str) -> WeightsPolicy:
    """`text` as a policy; UsageError where it is none."""
    if text not in WEIGHTS_POLICIES:
        raise UsageError(
            f"WEIGHTS={text!r} is not known; set it to one of {', '.join(WEIGHTS_POLICIES)}, or leave it out."
        )
    return cast(WeightsPolicy, text)


def _tokens(text: str) -> dict[str, str]:
    found = {}
    for word in text.split():
        host, separator, token = word.partition("=")
        if not (host and separator and token):
            raise UsageError(
                "MODELBAKE_REGISTRY_TOKEN is not of the form HOST=TOKEN; write it so, with spaces between several."
            )
        found[host] = token
    return found


def _user(text: str) -> int | None:
    # sudo's own word, so anything else is none.
    return int(text) if re.fullmatch("[0-9]{1,10}", text) else None


def _threads(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"MODELBAKE_THREADS={text!r} is no number of threads; set it to 1 or more, or leave it out.")
    return int(text)


def _find_policy(here: Path) -> Path | None:
    """The nearest one above, as git looks for its folder: a command in a subfolder is bound by it as well."""
    found = (folder / POLICY_NAME for folder in (here, *here.parents))
    # Also a link that leads nowhere: it must be an error, and not as if there were no policy.
    return next((path for path in found if os.path.lexists(path)), None)


def _find_root(here: Path) -> Path:
    return next((folder for folder in (here, *here.parents) if (folder / "bundles").is_dir()), here)


def _hub_endpoint(text: str) -> str:
    if "@" in urlsplit(text).netloc:
        # It would be seen in messages, build arguments and provenance.
        raise RefusedError("HF_ENDPOINT holds a user name or password; take them out, and give a token in HF_TOKEN.")
    return text.rstrip("/")


def _switch(text: str) -> bool:
    return text.lower() in ("1", "true", "yes", "on")


def _first_file(environ: Mapping[str, str], *names: str) -> Path | None:
    paths = (Path(environ[name]) for name in names if environ.get(name))
    return next((path for path in paths if path.is_file()), None)


def _read_token(path: str | None) -> str | None:
    if not path or not Path(path).is_file():
        return None
    return Path(path).read_text(encoding="utf-8").strip() or None

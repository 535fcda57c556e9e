"""What the commands of store and registry share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelbake import manifest
from modelbake.errors import UsageError
from modelbake.settings import Settings

if TYPE_CHECKING:
    from modelbake.oci.locate import Located
    from modelbake.oci.model import Descriptor
    from modelbake.oci.pack import Packed
    from modelbake.oci.policy import Policy
    from modelbake.oci.transfer import Moved

platform_option: Callable[[Any], Any] = click.option(
    "--platform",
    "platforms",
    multiple=True,
    help="OS/ARCHITECTURE that image tools take it for; several make an index. The files are the same for all [default: linux/amd64].",
)
plain_http_option: Callable[[Any], Any] = click.option(
    "--plain-http",
    is_flag=True,
    help="Speak plain HTTP to a registry on another machine; to this machine's own it is tried anyhow.",
)

signature_option: Callable[[Any], Any] = click.option(
    "--require-signature",
    "keys",
    multiple=True,
    metavar="KEY",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Refuse what this public key did not sign, before anything is brought; several times: all must have.",
)


def packed_bundle(settings: Settings, name: str, platforms: tuple[str, ...]) -> Packed:
    """The bundle of the models folder as OCI."""
    from modelbake.digests import Digests
    from modelbake.oci.pack import DEFAULT_PLATFORMS, pack

    entry = manifest.read(settings.models_dir).bundle(name)
    chosen = [_platform(text) for text in platforms] or DEFAULT_PLATFORMS
    return pack(settings.models_dir, entry, Digests(settings.cache_dir), chosen)


def moved_line(verb: str, moved: Moved) -> str:
    """What a transfer did, in words."""
    return f"  {verb}  {moved.sent:,} of {moved.total:,} bytes ({moved.sent_blobs} of {moved.total_blobs} blobs)"


def _platform(text: str) -> Any:
    from modelbake.oci.model import Platform

    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(f"{text!r} is no platform; write OS/ARCHITECTURE, like linux/arm64.")
    return Platform(parts[1], parts[0], parts[2] if len(parts) == 3 else None)


def find_policies(settings: Settings, keys: tuple[Path, ...] = ()) -> list[Policy]:
    """The project's policy and that of the command line's keys, where there are such."""
    if not keys and settings.policy is None:
        # Without loading what checks signatures, which takes as long as a pull that has nothing to do.
        return []
    from modelbake.oci import policy

    found = [policy.read(settings.policy)] if settings.policy else []
    return [*found, *([policy.of_keys(keys)] if keys else [])]


def check_signers(where: Located, root: Descriptor, policies: list[Policy]) -> list[str]:
    """The names of the keys that signed it; RefusedError where a policy wants others."""
    if not policies:
        return []
    from modelbake.oci.policy import require

    found = [one for policy in policies for one in require(where.place, root, where.reference, policy)]
    return list(dict.fromkeys(one.key.name for one in found))

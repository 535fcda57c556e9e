"""modelbake sign: say with a key that this is the bundle which was tested; make such keys."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelbake.cli.oci import plain_http_option
from modelbake.cli.options import load_settings, speaking
from modelbake.errors import UsageError
from modelbake.output import out
from modelbake.settings import Settings

if TYPE_CHECKING:
    from modelbake.oci.locate import Located


@click.command("sign")
@click.argument("references", nargs=-1)
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="The private key, a PEM file.")
@click.option(
    "--annotation", "-a", "annotations", multiple=True, help="NAME=VALUE that is signed along; several times."
)
@click.option("--identity", help="HOST/REPOSITORY that is signed along [default: where it is signed].")
@click.option(
    "--generate-key",
    "prefix",
    type=click.Path(path_type=Path),
    help="Make a pair of keys, PREFIX.key and PREFIX.pub, in cosign's format, and sign nothing.",
)
@plain_http_option
@speaking
def command(
    references: tuple[str, ...],
    key: Path | None,
    annotations: tuple[str, ...],
    identity: str | None,
    prefix: Path | None,
    plain_http: bool,
) -> None:
    """Sign REFERENCES (store:NAME or HOST/REPOSITORY:TAG) in cosign's format, offline, with a key.

    An encrypted key's password is COSIGN_PASSWORD, else it is asked on the terminal.
    """
    settings = load_settings()
    if prefix is not None:
        if references or key or annotations or identity:
            raise click.UsageError("--generate-key goes alone.", click.get_current_context())
        _generate(prefix, settings)
        return
    if key is None or not references:
        raise click.UsageError("Give --key and what to sign, or --generate-key.", click.get_current_context())
    _sign(references, key, _pairs(annotations), identity, plain_http, settings)


def _generate(prefix: Path, settings: Settings) -> None:
    from modelbake.oci.keys import write_pair

    private, public = write_pair(prefix, _password(settings, new=True))
    lines = [f"{private} (keep it secret, and keep a copy of it)", f"{public} (give it to whoever verifies)"]
    out.result({"private": str(private), "public": str(public)}, lines)


def _sign(
    references: tuple[str, ...],
    path: Path,
    annotations: dict[str, str],
    identity: str | None,
    plain_http: bool,
    settings: Settings,
) -> None:
    from modelbake.oci.keys import read_private
    from modelbake.oci.locate import locate
    from modelbake.oci.sign import sign, signature_name

    # Everything is looked up before anything is signed, and the password asked for after that.
    found = [(text, one := locate(text, settings, plain_http), one.resolve()) for text in references]
    key = read_private(path, lambda: _password(settings, new=False))
    results = []
    for text, one, subject in found:
        sign(one.place, subject, identity or _identity(one), key, annotations)
        name = signature_name(subject.digest)
        results.append({"reference": text, "digest": subject.digest, "signatures": name, "key": key.public.fingerprint})
    out.result(results, [f"{one['reference']}: signed {one['digest']}, at {one['signatures']}" for one in results])


def _identity(found: Located) -> str:
    """HOST/REPOSITORY as cosign writes it, also of what the store has under a registry's name; else the store's own name."""
    from modelbake.oci.reference import DOCKER_HUB, parse

    # Without a host it would be Docker Hub's for the parser, and it is nobody's.
    has_host = found.reference is not None or re.match(r"[^/]*[.:][^/]*/|localhost/", found.name)
    if not has_host:
        return found.name.partition(":")[0]
    reference = found.reference or parse(found.name)
    host = "index.docker.io" if reference.host == DOCKER_HUB else reference.host
    return f"{host}/{reference.repository}"


def _pairs(annotations: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in annotations:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--annotation {text!r} is no NAME=VALUE; write it so.")
        if name in found:
            raise UsageError(f"--annotation {name} is given twice; give it once.")
        found[name] = value
    return found


def _password(settings: Settings, new: bool) -> str:
    if settings.key_password is not None:
        return settings.key_password
    if not sys.stdin.isatty():
        raise UsageError("The key's password is needed and there is no terminal to ask on; set COSIGN_PASSWORD.")
    asked: str = click.prompt(
        "Password of the key", default="", show_default=False, hide_input=True, err=True, confirmation_prompt=new
    )
    return asked

"""modelbake tags: what a repository of a registry has."""

from __future__ import annotations

import click

from modelbake.cli.oci import plain_http_option
from modelbake.cli.options import load_settings, speaking
from modelbake.output import out


@click.command("tags")
@click.argument("repository", metavar="HOST/REPOSITORY")
@plain_http_option
@speaking
def command(repository: str, plain_http: bool) -> None:
    """List the tags of a repository."""
    from modelbake.oci import locate
    from modelbake.oci.reference import parse

    names = locate.repository(parse(repository), load_settings(), plain_http).names()
    out.result(names, names)

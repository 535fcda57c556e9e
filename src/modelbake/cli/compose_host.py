"""What `make compose` runs: this host's inputs for docker compose."""

from __future__ import annotations

import click

from modelbake.bake.compose import write_override
from modelbake.bake.host import host_inputs
from modelbake.cli.options import load_settings, speaking
from modelbake.output import out


@click.command("compose_host.py")
@speaking
def command() -> None:
    """Write compose.override.yaml where pip has an index, a proxy, a wheel folder or certificates of its own here."""
    settings = load_settings()
    path = write_override(settings.root, host_inputs(settings), settings.sudo_user)
    if path is None:
        out.result({"override": None}, ["docker compose needs nothing of this host"])
    else:
        out.result({"override": str(path)}, [f"{path}: what docker compose needs of this host"])

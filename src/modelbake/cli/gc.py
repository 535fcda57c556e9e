"""modelbake gc: take out of the store what no name leads to."""

from __future__ import annotations

import click

from modelbake.cli.options import load_settings, speaking
from modelbake.output import out


@click.command("gc")
@speaking
def command() -> None:
    """Take out of the store what no name leads to; waits until nobody adds anything."""
    from modelbake.oci.store import Store

    swept = Store(load_settings().store_dir).gc()
    out.result({"blobs": swept.blobs, "size": swept.size}, [f"took away {swept.blobs} blobs, {swept.size:,} bytes"])

"""modelbake lock: commits and digests into the definitions."""

from __future__ import annotations

from dataclasses import asdict

import click

from modelbake.catalog import Catalog
from modelbake.cli.options import load_settings, speaking
from modelbake.errors import IntegrityError
from modelbake.output import out


@click.command("lock")
@click.argument("bundles", nargs=-1)
@click.option("--check", is_flag=True, help="Write nothing; exit 5 where something would be written.")
@click.option("--update", is_flag=True, help="Take the newest commit of what is followed, and new digests for old.")
@speaking
def command(bundles: tuple[str, ...], check: bool, update: bool) -> int:
    """Pin BUNDLES (default: all): each hub revision becomes a commit, each file gets its sha256 and size, in bundle.toml.

    Pins that are there already are compared with what the sources say now.
    """
    from modelbake.lock.resolve import resolve
    from modelbake.lock.write import write_all

    settings = load_settings()
    catalog = Catalog(settings.bundles_dir)
    resolved = resolve(settings, catalog.select(bundles or tuple(catalog.names())), update)
    stale = [one for one in resolved if one.changes]
    if not check:
        write_all(catalog.folder, resolved)
    results = [
        {
            "bundle": one.bundle.name,
            "changes": [asdict(change) for change in one.changes],
            "origins": one.origins,
            "mirrors": one.mirrors,
        }
        for one in resolved
    ]
    lines = []
    for one in resolved:
        state = ("would change" if check else "locked") if one.changes else "is what its sources say"
        lines.append(f"{one.bundle.name}: {state}")
        lines += [f"  {change.where}: {change.old or '-'} -> {change.new}" for change in one.changes]
    out.result(results, lines)
    if not (check and stale):
        return 0
    names = " ".join(one.bundle.name for one in stale)
    out.warn(f"Not locked, or no longer: {names}. `modelbake lock{' --update' if update else ''} {names}` mends that.")
    return IntegrityError.exit_code

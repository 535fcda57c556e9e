"""modelbake list: the bundles that can be built, and those in the models folder."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake import manifest
from modelbake.bundle import Catalog
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.output import out, table


@click.command("list")
@models_dir_option
@speaking
def command(models_dir: Path | None) -> None:
    """List the bundles: those of this project, and those that the models folder holds."""
    settings = load_settings(models_dir)
    catalog = Catalog(settings.bundles_dir)
    defined = {name: catalog.get(name) for name in catalog.names()}
    has_manifest = (settings.models_dir / manifest.MANIFEST_NAME).exists()
    built = {entry.name: entry for entry in manifest.read(settings.models_dir).bundles} if has_manifest else {}
    rows = []
    for name in sorted(defined.keys() | built.keys()):
        one = built.get(name) or defined[name]
        entry = built.get(name)
        rows.append(
            {
                "name": name,
                "version": one.version,
                "kind": one.kind,
                "pinned": one.pinned,
                "licence": one.licence,
                "built": entry.weights if entry else None,
                "description": one.description,
            }
        )
    cells = [
        [r["name"], r["version"], r["kind"], "yes" if r["pinned"] else "no", r["built"] or "-", r["description"]]
        for r in rows
    ]
    out.result(
        rows,
        table(
            ["bundle", "version", "kind", "pinned", "built", "description"], [[str(c) for c in row] for row in cells]
        ),
    )

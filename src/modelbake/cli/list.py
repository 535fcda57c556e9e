"""modelbake list: the bundles that can be built, and those in the models folder."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake import manifest
from modelbake.catalog import Catalog
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.output import out, table


@click.command("list")
@click.option("--built", is_flag=True, help="Only those that the models folder holds; it must hold a manifest.")
@models_dir_option
@speaking
def command(built: bool, models_dir: Path | None) -> None:
    """List the bundles: those of this project, and those that the models folder holds."""
    settings = load_settings(models_dir)
    catalog = Catalog(settings.bundles_dir)
    defined = {} if built else {name: catalog.get(name) for name in catalog.names()}
    has_manifest = built or (settings.models_dir / manifest.MANIFEST_NAME).exists()
    entries = {entry.name: entry for entry in manifest.read(settings.models_dir).bundles} if has_manifest else {}
    rows = []
    for name in sorted(defined.keys() | entries.keys()):
        one = entries.get(name) or defined[name]
        entry = entries.get(name)
        rows.append(
            {
                "name": name,
                "version": one.version,
                "kind": one.kind,
                "default": one.default,
                "pinned": one.pinned,
                "licence": one.licence,
                "built": entry.weights if entry else None,
                "description": one.description,
            }
        )
    cells = [
        [
            r["name"],
            r["version"],
            r["kind"],
            "yes" if r["default"] else "no",
            "yes" if r["pinned"] else "no",
            r["built"] or "-",
            r["description"],
        ]
        for r in rows
    ]
    out.result(
        rows,
        table(
            ["bundle", "version", "kind", "default", "pinned", "built", "description"],
            [[str(c) for c in row] for row in cells],
        ),
    )

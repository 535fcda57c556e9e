"""modelbake pack: a bundle of the models folder into the store, as OCI."""

from __future__ import annotations

from pathlib import Path

import click

from modelbake.cli.oci import moved_line, packed_bundle, platform_option
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.output import out


@click.command("pack")
@click.argument("bundle")
@click.option("--tag", "-t", "name", help="The name in the store [default: BUNDLE:VERSION].")
@platform_option
@models_dir_option
@speaking
def command(bundle: str, name: str | None, platforms: tuple[str, ...], models_dir: Path | None) -> None:
    """Put BUNDLE of the models folder into the store: one layer a file, an image manifest and a ModelPack manifest over them."""
    from modelbake.oci.locate import name_in_store
    from modelbake.oci.pack import MODELPACK_SUFFIX
    from modelbake.oci.store import Store
    from modelbake.oci.transfer import send

    settings = load_settings(models_dir)
    packed = packed_bundle(settings, bundle, platforms)
    store = Store(settings.store_dir)
    name = name_in_store(name) if name else f"{packed.entry.name}:{packed.entry.version}"
    with store.adding():
        moved = send([*packed.layers, *packed.documents], store)
        store.tag(name, packed.image)
        store.tag(f"{name}{MODELPACK_SUFFIX}", packed.modelpack)
    result = {
        "bundle": packed.entry.name,
        "name": name,
        "digest": packed.image.digest,
        "modelpack": packed.modelpack.digest,
        "added": moved.sent,
        "size": moved.total,
    }
    out.result(result, [f"store:{name}", f"  digest  {packed.image.digest}", moved_line("added", moved)])

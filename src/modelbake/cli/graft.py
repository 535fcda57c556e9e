"""modelbake graft: bundles into a prebuilt image, without building."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelbake.cli.options import load_settings, speaking
from modelbake.errors import UsageError
from modelbake.output import out
from modelbake.settings import Settings

if TYPE_CHECKING:
    from modelbake.oci.graft import Source

ENGINE = "docker:"


@click.command("graft")
@click.argument("runtime")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("-t", "--tag", "image", required=True, metavar="IMAGE", help="What the new image is called.")
@click.option(
    "--replace",
    multiple=True,
    metavar="NAME",
    help="A bundle that RUNTIME holds and that one of BUNDLES takes the place of. May be given several times.",
)
@speaking
def command(runtime: str, bundles: tuple[str, ...], image: str, replace: tuple[str, ...]) -> None:
    """Make an image out of the image RUNTIME and BUNDLES: a manifest and a config are written, no layer is.

    Each name is HOST/REPOSITORY:TAG in a registry, store:NAME in the local store, or docker:NAME in the Docker engine.
    """
    from modelbake.cli.places import named
    from modelbake.oci.engine import Sent, load
    from modelbake.oci.graft import graft, plan

    settings = load_settings()
    to_engine = image.startswith(ENGINE)
    sent: Sent | None = None
    with ExitStack() as stack:
        sources = _Sources(settings, stack, heads=to_engine)
        origin = sources.find(runtime)
        parts = [sources.find(bundle) for bundle in bundles]
        if to_engine:
            grafted = plan(origin, parts, replace)
            out.detail(f"{len(grafted.layers)} layers that exist, {len(grafted.blobs)} blobs that are new")
            sent = load(grafted, image.removeprefix(ENGINE), sources.held)
        else:
            target = named(image, settings)
            if target.reference is not None and target.reference.digest is not None:
                raise UsageError(f"{image} names a digest, which is not known before; give the new image a tag.")
            grafted = graft(origin, parts, target.place, target.name, replace)
    platforms = [f"{one.platform.os}/{one.platform.architecture}" for one in grafted.manifests if one.platform]
    versions = {entry.name: entry.version for entry in grafted.bundles.bundles}
    data = {"image": image, "digest": grafted.image.digest, "platforms": platforms, "bundles": versions}
    lines = [
        f"{image}@{grafted.image.digest}",
        f"  platforms: {', '.join(platforms)}",
        f"  bundles: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]
    if sent is not None:
        data |= {"sent": {"layers": sent.layers, "bytes": sent.size}}
        lines.append(f"  sent to the engine: {sent.layers} layers, {sent.size:,} bytes in all")
    out.result(data, lines)


@dataclass
class _Sources:
    """Finds images by their names; what is in the engine comes into a folder that is gone at the end.

    heads: only as much of the engine's images as it takes to look at them, since they go back there. `held` are their blobs.
    """

    settings: Settings
    stack: ExitStack
    heads: bool
    held: set[str] = field(default_factory=set)

    def find(self, name: str) -> Source:
        """The image that is called so."""
        from modelbake.cli.places import named

        if not name.startswith(ENGINE):
            place = named(name, self.settings)
            return place.place, place.place.resolve(place.name)
        from modelbake.oci.engine import save
        from modelbake.oci.store import Store

        store = Store(Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="modelbake-graft-"))))
        with store.adding():
            root = save(name.removeprefix(ENGINE), store, self.heads)
        self.held |= {f"sha256:{path.name}" for path in (store.folder / "blobs" / "sha256").iterdir()}
        return store, root

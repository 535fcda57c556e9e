"""modelbake graft: bundles into a prebuilt image, without building."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelbake.cli.oci import check_signers, find_policies, moved_line, plain_http_option
from modelbake.cli.options import load_settings, speaking
from modelbake.errors import UsageError
from modelbake.output import out
from modelbake.settings import Settings

if TYPE_CHECKING:
    from modelbake.oci.graft import Grafted, Source
    from modelbake.oci.policy import Policy
    from modelbake.oci.transfer import Moved

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
@plain_http_option
@speaking
def command(runtime: str, bundles: tuple[str, ...], image: str, replace: tuple[str, ...], plain_http: bool) -> None:
    """Make an image out of the image RUNTIME and BUNDLES, by a new manifest and config: no layer is made anew.

    Each name is HOST/REPOSITORY:TAG in a registry, store:NAME in the local store, or docker:NAME in the Docker engine. Within one
    registry, and into an engine that has the layers, no layer moves.
    """
    from modelbake.oci.engine import MissingLayerError, load
    from modelbake.oci.graft import graft, plan
    from modelbake.oci.locate import locate

    settings = load_settings()
    policies = find_policies(settings)
    if image.startswith(ENGINE):
        name = image.removeprefix(ENGINE)

        def into_engine(heads: bool) -> tuple[Grafted, Moved]:
            with ExitStack() as stack:
                images = _Images(settings, policies, plain_http, stack, heads)
                # The bundles first: a name that does not exist is found before the engine has to give all of the runtime.
                parts = [images.find(bundle) for bundle in bundles]
                grafted = plan(images.find(runtime), parts, replace)
                return grafted, load(grafted, name, images.held)

        try:
            grafted, moved = into_engine(heads=True)
        except MissingLayerError as error:
            out.detail(str(error))
            grafted, moved = into_engine(heads=False)
    else:
        to = locate(image, settings, plain_http)
        if to.name.startswith("sha256:"):
            raise UsageError(f"{image} names a digest, which is not known before; give the new image a tag.")
        with ExitStack() as stack:
            images = _Images(settings, policies, plain_http, stack, heads=False)
            parts = [images.find(bundle) for bundle in bundles]
            grafted, moved = graft(images.find(runtime), parts, to.place, to.name, replace)
    platforms = [f"{one.platform.os}/{one.platform.architecture}" for one in grafted.manifests if one.platform]
    versions = {entry.name: entry.version for entry in grafted.bundles.bundles}
    result = {
        "image": image,
        "digest": grafted.image.digest,
        "platforms": platforms,
        "bundles": versions,
        "sent": moved.sent,
        "size": moved.total,
    }
    lines = [
        image,
        f"  digest     {grafted.image.digest}",
        f"  platforms  {', '.join(platforms)}",
        f"  bundles    {', '.join(f'{name} {version}' for name, version in versions.items())}",
        moved_line("sent", moved),
    ]
    out.result(result, lines)


@dataclass
class _Images:
    """Finds images by their names; what is in the engine comes into folders that are gone at the end.

    heads: only as much of the engine's images as it takes to look at them, since they go back there. `held` are their blobs.
    """

    settings: Settings
    policies: list[Policy]
    plain_http: bool
    stack: ExitStack
    heads: bool
    held: set[str] = field(default_factory=set)

    def find(self, name: str) -> Source:
        """The image that is called so."""
        from modelbake.oci.engine import Saved, save
        from modelbake.oci.locate import locate

        if not name.startswith(ENGINE):
            found = locate(name, self.settings, self.plain_http)
            root = found.resolve()
            check_signers(found, root, self.policies)
            return found.place, root
        image = name.removeprefix(ENGINE)
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="modelbake-graft-")))
        store = Saved(folder, image)
        with store.adding():
            root = save(image, store, self.heads)
        self.held |= {f"sha256:{path.name}" for path in (folder / "blobs" / "sha256").iterdir()}
        return store, root

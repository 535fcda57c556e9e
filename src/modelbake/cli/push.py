"""modelbake push: a bundle of the models folder to a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelbake.cli.oci import moved_line, packed_bundle, plain_http_option, platform_option
from modelbake.cli.options import load_settings, models_dir_option, speaking
from modelbake.errors import UnknownNameError, UsageError
from modelbake.output import out
from modelbake.settings import Settings

if TYPE_CHECKING:
    from modelbake.oci.reference import Reference


@click.command("push")
@click.argument("bundle")
@click.argument("reference", metavar="REF")
@platform_option
@click.option(
    "--bom", "with_bom", is_flag=True, help="Attach the bundle's bill of materials, as a referrer of the image."
)
@plain_http_option
@models_dir_option
@speaking
def command(
    bundle: str,
    reference: str,
    platforms: tuple[str, ...],
    with_bom: bool,
    plain_http: bool,
    models_dir: Path | None,
) -> None:
    """Send BUNDLE of the models folder to REF (HOST/REPOSITORY:TAG): what the registry lacks of it, straight from the folder."""
    settings = load_settings(models_dir)
    result, lines = send_bundle(settings, bundle, parse_target(reference), platforms, with_bom, plain_http)
    out.result(result, lines)


def parse_target(reference: str) -> Reference:
    """`reference` as one to push to; UsageError where it is none, or has a digest."""
    from modelbake.oci.reference import parse

    found = parse(reference)
    if found.digest:
        raise UsageError(f"{reference} has a digest, which a push cannot choose; give HOST/REPOSITORY:TAG.")
    return found


def refuse_taken(settings: Settings, target: Reference, plain_http: bool) -> None:
    """UsageError where a push to `target` would move a tag; SourceUnreachableError where the registry does not answer."""
    from modelbake.oci.locate import repository
    from modelbake.oci.pack import MODELPACK_SUFFIX

    where = repository(target, settings, plain_http)
    for tag in (target.target, f"{target.target}{MODELPACK_SUFFIX}"):
        try:
            found = where.resolve(tag)
        except UnknownNameError:
            continue
        raise UsageError(f"{where}:{tag} is there already ({found.digest}) and stays as it is; give another tag.")


def send_bundle(
    settings: Settings,
    bundle: str,
    found: Reference,
    platforms: tuple[str, ...] = (),
    with_bom: bool = False,
    plain_http: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Send a bundle of the models folder; the command's result, and its lines."""
    from modelbake.oci.locate import repository
    from modelbake.oci.pack import MODELPACK_SUFFIX
    from modelbake.oci.transfer import send

    target = repository(found, settings, plain_http)
    packed = packed_bundle(settings, bundle, platforms)
    moved = send([*packed.layers, *packed.documents], target)
    target.tag(found.target, packed.image)
    target.tag(f"{found.target}{MODELPACK_SUFFIX}", packed.modelpack)
    named = found.at(found.target)
    result: dict[str, Any] = {
        "bundle": packed.entry.name,
        "reference": str(named),
        "digest": packed.image.digest,
        "modelpack": packed.modelpack.digest,
        "sent": moved.sent,
        "size": moved.total,
    }
    if with_bom:
        from modelbake.oci import bom
        from modelbake.oci.referrers import attach

        result["bom"] = attach(target, packed.image, bom.blob(packed.entry), bom.MEDIA_TYPE).digest
    return result, [f"{named}", f"  digest  {packed.image.digest}", moved_line("sent", moved)]

"""modelbake copy: images and bundles between registries, and between store and registry."""

from __future__ import annotations

import click

from modelbake.cli.oci import check_signers, find_policies, moved_line, plain_http_option
from modelbake.cli.options import load_settings, speaking
from modelbake.errors import UsageError
from modelbake.output import out


@click.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@plain_http_option
@speaking
def command(source: str, target: str, plain_http: bool) -> None:
    """Copy the image or bundle FROM one place TO another: HOST/REPOSITORY:TAG or store:NAME, all platforms, the same digests,
    with its signatures, what is attached to it (a bill of materials, say), and the ModelPack manifest beside it.

    Between repositories of one registry no bytes are sent. The project's modelbake.policy.toml, if it has one, says which keys must
    have signed what is copied.
    """
    from modelbake.oci.companions import copy
    from modelbake.oci.locate import locate

    settings = load_settings()
    here, there = locate(source, settings, plain_http), locate(target, settings, plain_http)
    if there.name.startswith("sha256:"):
        raise UsageError(f"{target} names a digest, which a copy cannot choose; give a tag.")
    root = here.resolve()
    check_signers(here, root, find_policies(settings))
    moved = copy(here.place, root, there.place, [there.name], here.name)
    result = {"from": str(here), "to": str(there), "digest": root.digest, "sent": moved.sent, "size": moved.total}
    out.result(result, [str(there), f"  digest  {root.digest}", moved_line("sent", moved)])

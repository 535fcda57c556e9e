"""An image with all that belongs to it from one place to another: its signatures, its referrers, its ModelPack manifest.

Whoever copies an image means the whole of it: what is verified before a copy must be verifiable after it, without the place that it
came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from modelbake.errors import UnknownNameError
from modelbake.oci import referrers, sign
from modelbake.oci.model import DIGEST, Descriptor
from modelbake.oci.pack import MODELPACK_SUFFIX
from modelbake.oci.place import Place, children, reachable
from modelbake.oci.transfer import Moved, move
from modelbake.oci.update import current
from modelbake.output import out

# A bill of materials refers to an image, and its signature to the bill; more than that nobody attaches.
_MOST_DEPTH = 3
# Whoever may write to a repository may attach to what others signed; a bill of materials has some thousand bytes.
MOST_ATTACHED_BYTES = 64 << 20


def copy(source: Place, root: Descriptor, target: Place, names: Iterable[str] = (), named: str | None = None) -> Moved:
    """`root`, all that it needs and all that belongs to it from `source` to `target`, where `names` then lead to it.

    named: the tag that leads to `root` in `source`; beside it the image's ModelPack manifest is looked for. The names come last, so
    that none leads to an image that lacks anything. What is signed or attached in the target already stays. Between repositories
    of one registry no blobs are sent, but mounted. The figures returned are those of the image alone.
    """
    needed = list(reachable(source, root))
    twin = None if named is None else _twin(source, named, needed)
    with target.adding():
        moved = move(source, needed, target)
        if twin is not None:
            here = {one.digest for one in needed}
            more = [one for one in reachable(source, twin) if one.digest not in here]
            move(source, more, target)
            needed += more
        carried: set[str] = set()
        for document in (one for one in needed if one.is_document):
            _carry(source, document, target, carried, 0)
        for name in names:
            target.tag(name, root)
            if twin is not None:
                target.tag(f"{name}{MODELPACK_SUFFIX}", twin)
    return moved


def _twin(source: Place, named: str, needed: list[Descriptor]) -> Descriptor | None:
    """The ModelPack manifest over the image's own layers, if the tag beside `named` leads to that."""
    if re.match(DIGEST, named):
        return None
    found = current(source, f"{named}{MODELPACK_SUFFIX}")
    if found is None:
        return None
    here = {one.digest for one in needed}
    # Its config is its own. Another image may have that tag too, or an older one of this image.
    layers = children(source, found)[1:]
    return found if layers and all(one.digest in here for one in layers) else None


def _carry(source: Place, document: Descriptor, target: Place, carried: set[str], depth: int) -> None:
    if document.digest in carried or depth == _MOST_DEPTH:
        return
    carried.add(document.digest)
    sign.carry(source, document.digest, target)
    for one in referrers.referrers(source, document.digest):
        try:
            parts = list(reachable(source, one.bare()))
        except UnknownNameError as error:
            # Registries that clear up untagged manifests leave their names in the list.
            out.warn(f"{error} It is listed as attached to {document.digest}, and left out.")
            continue
        size = sum(part.size for part in parts)
        if size > MOST_ATTACHED_BYTES:
            out.warn(f"{source}: {one.digest}, attached to {document.digest}, has {size:,} bytes and is left out.")
            continue
        move(source, parts, target)
        referrers.enlist(target, document.digest, one)
        _carry(source, one.bare(), target, carried, depth + 1)

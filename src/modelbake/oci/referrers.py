"""What refers to a manifest: documents attached to it by `subject`, through the referrers API or the fallback tag.

Format: OCI distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema"; OCI image-spec 1.1, manifest.md, "Guidelines for
artifact usage". A store, and a registry without the API, keep an index of them under the name sha256-<hex>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from modelbake.errors import IntegrityError, RefusedError
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.model import (
    EMPTY,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    INDEXES,
    MOST_LAYERS,
    Descriptor,
    ImageIndex,
    ImageManifest,
    decode,
    descriptor_of,
    encode,
)
from modelbake.oci.pack import MODELPACK_SUFFIX
from modelbake.oci.place import Place
from modelbake.oci.sign import signature_name
from modelbake.oci.store import Store
from modelbake.oci.update import current, update

_EMPTY = b"{}"


@runtime_checkable
class ListsReferrers(Protocol):
    """A place that may have the referrers API."""

    def referrers(self, digest: str) -> ImageIndex | None:
        """What refers to the digest, of all artifact types and all pages; None where the place has no such API (404)."""


def referrers_name(digest: str) -> str:
    """The name under which a place without the API keeps the index of what refers to the digest."""
    return digest.replace(":", "-")


def belonging(store: Store, names: Iterable[str]) -> list[str]:
    """The names (or digests), and what would be of no use without them and keep bytes in the store: the ModelPack manifest beside
    each, and the signatures and referrers of what no other name leads to. UnknownNameError where one leads nowhere."""
    known = {name: store.resolve(name).digest for name in store.names()}
    found: dict[str, str] = {}
    for asked in names:
        digest = store.resolve(asked).digest
        found |= {name: digest for name in known if name == asked or asked == digest == known[name]}
    found |= {twin: known[twin] for name in found if (twin := f"{name}{MODELPACK_SUFFIX}") in known}
    kept = {digest for name, digest in known.items() if name not in found}
    mine = {signature_name(digest) for digest in found.values() if digest not in kept}
    mine |= {referrers_name(digest) for digest in found.values() if digest not in kept}
    return sorted({*found, *(mine & known.keys())})


def referrers(place: Place, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
    """What refers to the digest, only of that type if one is given; the descriptors bear artifact type and annotations.

    IntegrityError where the index that the place keeps of them is damaged. Nobody vouches for them: whoever may write to the
    repository may attach a document. One that is to be trusted must be signed itself.
    """
    index = place.referrers(digest) if isinstance(place, ListsReferrers) else None
    if index is None:
        index = _index(place, current(place, referrers_name(digest)), referrers_name(digest))
    return tuple(one for one in index.manifests if artifact_type in (None, one.artifact_type))


def attach(
    place: Place, subject: Descriptor, blob: Blob, artifact_type: str, annotations: Mapping[str, str] | None = None
) -> Descriptor:
    """Attach the blob to the document, which must be there, and return the descriptor of the manifest that does so.

    The same blob attached again changes nothing. The blob's descriptor may bear annotations of its own, such as a title.
    """
    empty = descriptor_of(_EMPTY, EMPTY)
    said = dict(annotations) if annotations else None
    manifest = encode(
        ImageManifest(
            2,
            empty,
            (blob.descriptor,),
            IMAGE_MANIFEST,
            artifact_type=artifact_type,
            subject=subject.bare(),
            annotations=said,
        )
    )
    bare = descriptor_of(manifest, IMAGE_MANIFEST)
    listed = descriptor_of(manifest, IMAGE_MANIFEST, artifact_type=artifact_type, annotations=said)
    with place.adding():
        place.add(of_bytes(_EMPTY, empty))
        place.add(blob)
        place.add(of_bytes(manifest, bare))
        enlist(place, subject.digest, listed)
    return listed


def enlist(place: Place, digest: str, referrer: Descriptor) -> None:
    """Let a manifest that is there, whose subject is the digest, be found as its referrer; its descriptor bears type and annotations.

    A place with the API read the subject out of the manifest and needs nothing more.
    """
    if isinstance(place, ListsReferrers) and place.referrers(digest) is not None:
        return
    name = referrers_name(digest)

    def change(before: Descriptor | None) -> Sequence[Blob]:
        there = _index(place, before, name)
        if any(one.digest == referrer.digest for one in there.manifests):
            return ()
        if len(there.manifests) >= MOST_LAYERS:
            raise RefusedError(f"{place}: {len(there.manifests)} documents refer to {digest}; remove the tag {name}.")
        data = encode(
            ImageIndex(2, (*there.manifests, referrer), IMAGE_INDEX, annotations=there.annotations),
        )
        return (of_bytes(data, descriptor_of(data, IMAGE_INDEX)),)

    update(place, name, change)


def _index(place: Place, descriptor: Descriptor | None, name: str) -> ImageIndex:
    if descriptor is None:
        return ImageIndex(2, ())
    where = f"{place}: {name}"
    if descriptor.media_type not in INDEXES:
        raise IntegrityError(
            f"{where} is a {descriptor.media_type[:100]!r}, no index of referrers; remove that tag, then attach again."
        )
    return decode(place.read(descriptor), ImageIndex, where)

"""Signatures in cosign's own format, made and verified offline with keys: cosign verifies these, and these verify cosign's.

Format: cosign's SIGNATURE_SPEC.md. What is signed is a payload, "simple signing" JSON that names a manifest's digest. It is a layer
of an image manifest at the tag sha256-<hex of that digest>.sig, and the layer's annotation holds the signature; a further signature
is a further layer. The store uses that tag as a name too. There is no transparency log in this: a key is all that is trusted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Struct

from modelbake.errors import IntegrityError, RefusedError, UnknownNameError, UsageError
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.keys import PrivateKey, PublicKey
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_MANIFEST,
    MANIFESTS,
    Descriptor,
    Digest,
    ImageManifest,
    decode,
    descriptor_of,
    encode,
)
from modelbake.oci.place import Place
from modelbake.oci.update import current, update

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
TYPE: Literal["cosign container image signature"] = "cosign container image signature"

# A payload has a few hundred bytes, and a digest a few signers; more could only be meant to keep a verifier busy.
MOST_PAYLOAD_BYTES = 1 << 16
MOST_SIGNATURES = 100


class _Identity(Struct, frozen=True):
    reference: str = msgspec.field(name="docker-reference")


class _Image(Struct, frozen=True):
    digest: Digest = msgspec.field(name="docker-manifest-digest")


class _Critical(Struct, frozen=True):
    identity: _Identity
    image: _Image
    type: Literal["cosign container image signature"]


class Payload(Struct, frozen=True):
    """What a signer says: this digest, under this name, with these annotations."""

    critical: _Critical
    optional: dict[str, Any] | None = None


@dataclass(frozen=True)
class Signature:
    """A signature that was verified: whose it is, and what it says beside the digest."""

    key: PublicKey
    identity: str
    annotations: Mapping[str, Any] = field(default_factory=dict)


def signature_name(digest: str) -> str:
    """The name in a place under which a digest's signatures are."""
    return f"{digest.replace(':', '-')}.sig"


def payload(digest: str, identity: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """The bytes to be signed, as cosign writes them. `identity` is HOST/REPOSITORY, or a name of the store."""
    said = Payload(_Critical(_Identity(identity), _Image(digest), TYPE), dict(annotations) if annotations else None)
    return msgspec.json.encode(said, order="deterministic")


def sign(
    place: Place, subject: Descriptor, identity: str, key: PrivateKey, annotations: Mapping[str, str] | None = None
) -> Descriptor:
    """Add the key's signature of the document to those that it has, and return the descriptor of the manifest that lists them.

    Nothing is added where the key signed the same payload before. IntegrityError where the manifest that is there is damaged.
    """
    data = payload(subject.digest, identity, annotations)
    if len(data) > MOST_PAYLOAD_BYTES:
        raise UsageError(f"The annotations make a payload of {len(data):,} bytes; leave some out.")
    name = signature_name(subject.digest)
    signature = base64.b64encode(key.sign(data)).decode()
    layer = descriptor_of(data, SIMPLE_SIGNING, annotations={SIGNATURE: signature})

    def change(before: Descriptor | None) -> Sequence[Blob]:
        there = _manifest(place, before, name) if before else None
        layers = there.layers if there else ()
        if any(one.digest == layer.digest and _signed(one, key.public, data) for one in layers):
            return ()
        if len(layers) >= MOST_SIGNATURES:
            raise RefusedError(
                f"{place}: {name} holds {len(layers)} signatures, as many as are read; remove that tag, then sign again."
            )
        return (of_bytes(data, layer.bare()), *_documents((*layers, layer), there))

    return update(place, name, change)


def carry(source: Place, digest: str, target: Place) -> None:
    """The digest's signatures in `source` to those that it has in `target`; none of them is verified by that.

    IntegrityError where what either place holds under their name is none of signatures.
    """
    name = signature_name(digest)
    here = current(source, name)
    if here is None:
        return
    listed = _manifest(source, here, name)
    small = [one for one in listed.layers if one.size <= MOST_PAYLOAD_BYTES]
    if not small:
        return

    def change(before: Descriptor | None) -> Sequence[Blob]:
        if before == here:
            return ()
        there = _manifest(target, before, name) if before else None
        known = there.layers if there else ()
        more = [one for one in small if one not in known][: max(0, MOST_SIGNATURES - len(known))]
        payloads = [_read(source, one) for one in more]
        if there is None and len(more) == len(listed.layers):
            return (*payloads, _read(source, listed.config), _read(source, here))
        return (*payloads, *_documents((*known, *more), there)) if more else ()

    update(target, name, change)


def verify(
    place: Place, subject: Descriptor, keys: Sequence[PublicKey], needed: int | None = None
) -> tuple[Signature, ...]:
    """The signatures of the document by the keys, one of each key that signed it; `needed` keys must have (default: all).

    RefusedError where fewer have: no signature, another key, a changed payload, a payload for another digest. IntegrityError where
    that may be because what the place holds is damaged. Signatures of others beside these are no matter.
    """
    distinct = list({key.fingerprint: key for key in keys}.values())
    needed = len(distinct) if needed is None else needed
    if not 0 < needed <= len(distinct):
        raise UsageError(
            f"{needed} signatures are asked for and {len(distinct)} keys given; give as many keys or more."
        )
    name = signature_name(subject.digest)
    where = f"{place}: {subject.digest}"
    before = current(place, name)
    if before is None:
        raise RefusedError(f"{where} is not signed; sign it (modelbake sign), or do not use it.")
    layers = _manifest(place, before, name).layers
    if len(layers) > MOST_SIGNATURES:
        raise RefusedError(
            f"{where} has {len(layers)} signatures, more than are read; remove the tag {name}, and sign it again."
        )
    found: dict[str, Signature] = {}
    rejected: list[str] = []
    broken: list[str] = []
    for number, layer in enumerate(layers, 1):
        label = f"signature {number}"
        try:
            signature = _verified(place, subject, layer, distinct, label)
        except RefusedError as error:
            rejected.append(str(error))
        except (IntegrityError, UnknownNameError) as error:
            broken.append(f"{label}: {error}")
        else:
            found.setdefault(signature.key.fingerprint, signature)
    if len(found) >= needed:
        return tuple(found[key.fingerprint] for key in distinct if key.fingerprint in found)
    missing = ", ".join(key.name for key in distinct if key.fingerprint not in found)
    count = "" if needed == len(distinct) else f"; {len(found)} of the {needed} that are needed"
    message = (
        f"{where} has no valid signature by {missing}{count} ({'; '.join([*broken, *rejected]) or 'it has none'})."
    )
    if broken:
        raise IntegrityError(f"{message} What is damaged must be signed again, or copied again from where it is whole.")
    raise RefusedError(f"{message} Do not use it, unless its signer can say why.")


def _verified(place: Place, subject: Descriptor, layer: Descriptor, keys: Sequence[PublicKey], label: str) -> Signature:
    if layer.media_type != SIMPLE_SIGNING:
        raise RefusedError(f"{label} is a {layer.media_type[:100]!r}")
    if layer.size > MOST_PAYLOAD_BYTES:
        raise RefusedError(f"{label} has a payload of {layer.size:,} bytes")
    if SIGNATURE not in (layer.annotations or {}):
        raise RefusedError(f"{label} has no annotation {SIGNATURE}")
    data = place.read(layer.bare())
    # The signature first: nothing is read out of bytes that no trusted key vouches for.
    key = next((key for key in keys if _signed(layer, key, data)), None)
    if key is None:
        raise RefusedError(f"{label} is by another key, or its payload was changed")
    try:
        said = msgspec.json.decode(data, type=Payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"{label} is by {key.name}, but its payload is none of cosign's ({error})") from error
    if said.critical.image.digest != subject.digest:
        raise RefusedError(f"{label} is by {key.name}, but for another digest, {said.critical.image.digest}")
    return Signature(key, said.critical.identity.reference, said.optional or {})


def _signed(layer: Descriptor, key: PublicKey, data: bytes) -> bool:
    try:
        signature = base64.b64decode((layer.annotations or {}).get(SIGNATURE, ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return key.verifies(signature, data)


def _manifest(place: Place, descriptor: Descriptor, name: str) -> ImageManifest:
    where = f"{place}: {name}"
    if descriptor.media_type not in MANIFESTS:
        raise IntegrityError(
            f"{where} is a {descriptor.media_type[:100]!r}, no manifest of signatures; remove that tag, then sign again."
        )
    try:
        return decode(place.read(descriptor), ImageManifest, where)
    except UnknownNameError as error:
        raise IntegrityError(
            f"{where} is damaged ({error}); sign again, or copy it again from where it is whole."
        ) from error


def _read(place: Place, descriptor: Descriptor) -> Blob:
    return of_bytes(place.read(descriptor.bare()), descriptor.bare())


def _documents(layers: tuple[Descriptor, ...], there: ImageManifest | None) -> tuple[Blob, Blob]:
    """The config and the manifest of these signatures, in the form in which cosign reads and extends them."""
    moment = "0001-01-01T00:00:00Z"
    config = encode(
        {
            "architecture": "",
            "created": moment,
            "history": [{"created": moment} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]},
            "config": {},
        }
    )
    described = descriptor_of(config, IMAGE_CONFIG)
    manifest = ImageManifest(
        2, described, layers, IMAGE_MANIFEST, annotations=there.annotations if there is not None else None
    )
    data = encode(manifest)
    return of_bytes(config, described), of_bytes(data, descriptor_of(data, IMAGE_MANIFEST))

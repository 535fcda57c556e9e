"""What the tests of trust share: a store with a document in it, keys, and signature manifests made by hand."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from modelbake.oci.blob import of_bytes
from modelbake.oci.keys import PrivateKey
from modelbake.oci.model import IMAGE_CONFIG, IMAGE_MANIFEST, Descriptor, ImageManifest, descriptor_of, encode
from modelbake.oci.sign import SIGNATURE, SIMPLE_SIGNING, signature_name
from modelbake.oci.store import Store

PASSWORD = "open sesame"


@functools.cache
def key(name: str) -> PrivateKey:
    """A key of P-256; the same for a name throughout."""
    return PrivateKey(name, ec.generate_private_key(ec.SECP256R1()))


def store_with(folder: Path, *names: str) -> tuple[Store, list[Descriptor]]:
    """A store with a small document under each name."""
    store = Store(folder)
    found = []
    for name in names:
        layer = f"a file of {name}".encode()
        found.append(put(store, name, [(layer, descriptor_of(layer, "application/octet-stream"))]))
    return store, found


def put(store: Store, name: str, layers: Sequence[tuple[bytes, Descriptor]]) -> Descriptor:
    """A manifest of the layers under the name; a layer's descriptor may lie."""
    config = descriptor_of(b"{}", IMAGE_CONFIG)
    manifest = encode(ImageManifest(2, config, tuple(one for _, one in layers), IMAGE_MANIFEST))
    described = descriptor_of(manifest, IMAGE_MANIFEST)
    with store.adding():
        for data, _ in layers:
            store.add(of_bytes(data, descriptor_of(data, "application/octet-stream")))
        store.add(of_bytes(b"{}", config))
        store.add(of_bytes(manifest, described))
        store.tag(name, described)
    return described


def signature_layer(payload: bytes, signature: bytes, media_type: str = SIMPLE_SIGNING) -> tuple[bytes, Descriptor]:
    """A layer of a signature manifest, whatever it says."""
    annotations = {SIGNATURE: base64.b64encode(signature).decode()}
    return payload, descriptor_of(payload, media_type, annotations=annotations)


def put_signatures(store: Store, subject: Descriptor, *layers: tuple[bytes, Descriptor]) -> Descriptor:
    """A signature manifest for the document, of these layers."""
    return put(store, signature_name(subject.digest), layers)

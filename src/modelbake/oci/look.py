"""What an image or bundle of a registry or the store is, without bringing it: read from its documents and a few layers' heads."""

from __future__ import annotations

from typing import Any

from modelbake.oci.image import contents, images
from modelbake.oci.model import Descriptor
from modelbake.oci.place import Place


def look_at(place: Place, root: Descriptor, name: str) -> dict[str, Any]:
    """All that is known of the image: its platforms, bundles with their artifacts, and the layers of its first platform.

    A layer's `path` is that of its file below the models folder, None for another layer. IntegrityError where it is no image.
    """
    found = list(images(place, root))
    image = found[0]
    inside = contents(image, trusted=True)
    paths = {layer.descriptor.digest: path for path, layer in inside.files.items()} if inside else {}
    return {
        "reference": name,
        "digest": root.digest,
        "size": sum(layer.descriptor.size for layer in image.layers),
        "platforms": [
            "/".join(filter(None, (p.os, p.architecture, p.variant))) for p in (one.platform for one in found)
        ],
        "bundles": [
            {
                "name": entry.name,
                "version": entry.version,
                "kind": entry.kind,
                "weights": entry.weights,
                "licence": entry.licence,
                "digest": entry.digest,
                "artifacts": [
                    {"role": one.role, "precision": one.precision, "format": one.format, "path": one.path}
                    for one in entry.artifacts
                ],
            }
            for entry in (inside.manifest.bundles if inside else ())
        ],
        "layers": [
            {"digest": one.descriptor.digest, "size": one.descriptor.size, "path": paths.get(one.descriptor.digest)}
            for one in image.layers
        ],
        "labels": image.labels,
    }

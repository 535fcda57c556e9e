"""Images out of a prebuilt runtime and bundles, by writing a manifest and a config: no layer is made anew or read.

A grafted image is a function of the runtime's layers below the models and of the bundles: the layers of all bundles' files stand in the
order of their paths and the merged models manifest comes last, as in a baked image, whatever was grafted before what. So grafting at
once or one by one, or replacing a bundle and putting the old one back, gives the same digest. Only where two bundles are the default
of one kind the order matters: the last stays it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import PurePosixPath
from typing import Any

from modelbake import manifest
from modelbake.errors import IntegrityError, RefusedError, UnknownNameError, UsageError
from modelbake.manifest import SCHEMA_VERSION, FileRef, Manifest
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.image import PLAIN, Contents, Image, Layer, contents, images
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageIndex,
    ImageManifest,
    descriptor_of,
    encode,
)
from modelbake.oci.pack import BUNDLE_DIGEST, PATH, bundle_labels, layer_annotations, manifest_layer
from modelbake.oci.place import Place
from modelbake.oci.transfer import Moved, move, send

# What Docker's overlay2 store takes (`max depth exceeded` beyond); containerd's takes more, but an image should run on both.
MOST_LAYERS = 125

Source = tuple[Place, Descriptor]


@dataclass(frozen=True)
class Grafted:
    """A grafted image before it is put anywhere: `layers` that exist, `blobs` that are new, each behind what it needs.

    `manifests` are those of the platforms, `image` what a name leads to: the only one of them, or an index where there are several.
    """

    layers: tuple[Layer, ...]
    blobs: tuple[Blob, ...]
    manifests: tuple[Descriptor, ...]
    image: Descriptor
    bundles: Manifest


def graft(
    runtime: Source, bundles: Sequence[Source], to: Place, name: str, replace: Collection[str] = ()
) -> tuple[Grafted, Moved]:
    """Put the image of the runtime and the bundles into `to`, where `name` then leads to it. The errors are those of `plan`."""
    grafted = plan(runtime, bundles, replace)
    layers: dict[Place, list[Descriptor]] = {}
    for layer in grafted.layers:
        layers.setdefault(layer.place, []).append(layer.descriptor)
    with to.adding():
        steps = [move(place, descriptors, to) for place, descriptors in layers.items()]
        steps.append(send(grafted.blobs, to))
        to.tag(name, grafted.image)
    return grafted, Moved(*(sum(figures) for figures in zip(*map(astuple, steps), strict=True)))


def plan(runtime: Source, bundles: Sequence[Source], replace: Collection[str] = ()) -> Grafted:
    """The image of the runtime and the bundles, without putting it anywhere. Bundles are the same on every platform.

    replace: names of bundles that the runtime has already and that those of these names in `bundles` shall take the place of.

    RefusedError where the runtime has a bundle of one's name that is not to be replaced, or one to be replaced whose layers cannot
    be told; UnknownNameError where it has none to be replaced; UsageError where `bundles` have a name twice, or not at all;
    IntegrityError where two bundles have different files of one path, where a document contradicts itself, or where there are
    too many layers.
    """
    parts = [_bundles(source) for source in bundles]
    given = [entry.name for part in parts for entry in part.manifest.bundles]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} is given twice; an image holds one version of a bundle.")
    stray = sorted(set(replace) - set(given))
    if stray:
        raise UsageError(
            f"{', '.join(stray)} is to be replaced, but none of the bundles given is it: {', '.join(given)}."
        )
    found = [_graft(image, parts, given, replace) for image in images(*runtime)]
    manifests = tuple(one.image for one in found)
    blobs = {blob.descriptor.digest: blob for one in found for blob in one.blobs}
    image = manifests[0].bare()
    if len(manifests) > 1:
        data = encode(ImageIndex(2, manifests, IMAGE_INDEX))
        image = descriptor_of(data, IMAGE_INDEX)
        blobs[image.digest] = of_bytes(data, image)
    layers = {layer.descriptor.digest: layer for one in found for layer in one.layers}
    return Grafted(tuple(layers.values()), tuple(blobs.values()), manifests, image, found[0].bundles)


def _bundles(source: Source) -> Contents:
    """The bundles of the first of a bundle's images, each of whose files must have a layer of its own."""
    image = next(images(*source))
    found = contents(image, trusted=False)
    if found is None:
        raise IntegrityError(f"{image.where} holds no bundle in modelbake's layers. {PLAIN}")
    for ref in (ref for entry in found.manifest.bundles for ref in entry.files):
        if found.layer(ref) is None:
            raise IntegrityError(f"{image.where} has no layer of {ref.path} in modelbake's format. {PLAIN}")
    return found


def _graft(image: Image, parts: Sequence[Contents], given: Collection[str], replace: Collection[str]) -> Grafted:
    old = contents(image, trusted=True) or Contents(
        image.where, Manifest(SCHEMA_VERSION, ()), {}, tuple(range(len(image.layers)))
    )
    _check_names(image, old, given, replace)
    kept = Manifest(SCHEMA_VERSION, tuple(entry for entry in old.manifest.bundles if entry.name not in given))
    merged = manifest.merge([kept, *(part.manifest for part in parts)])
    files = _files([(old, kept), *((part, part.manifest) for part in parts)])
    base = [image.layers[number] for number in old.others]
    models = [_model_layer(path, files[path]) for path in sorted(files)]
    last = manifest_layer(merged)
    listed = (*(one.descriptor for one in (*base, *models)), last.descriptor)
    if len(listed) > MOST_LAYERS:
        raise IntegrityError(
            f"The image would have {len(listed)} layers, more than the {MOST_LAYERS} that engines take; graft fewer bundles into one image."
        )
    diff_ids = [*(one.diff_id for one in (*base, *models)), last.descriptor.digest]
    config = encode(_config(image, old.others, listed, diff_ids, bundle_labels(merged.bundles)))
    described = descriptor_of(config, IMAGE_CONFIG)
    annotations = {key: value for key, value in (image.manifest.annotations or {}).items() if key != BUNDLE_DIGEST}
    document = encode(
        ImageManifest(2, described, listed, IMAGE_MANIFEST, annotations=annotations | bundle_labels(merged.bundles))
    )
    top = descriptor_of(document, IMAGE_MANIFEST, platform=image.platform)
    blobs = (last, of_bytes(config, described), of_bytes(document, top))
    return Grafted((*base, *models), blobs, (top,), top, merged)


def _check_names(image: Image, old: Contents, given: Collection[str], replace: Collection[str]) -> None:
    has = {entry.name: entry for entry in old.manifest.bundles}
    known = f"It has: {', '.join(has) or 'none'}."
    missing = sorted(set(replace) - set(has))
    if missing:
        raise UnknownNameError(f"{image.where} has no bundle {', '.join(missing)} to replace. {known}")
    again = sorted(set(given) & set(has) - set(replace))
    if again:
        raise RefusedError(
            f"{image.where} holds {', '.join(again)} already; say {' '.join(f'--replace {name}' for name in again)} to swap it."
        )
    for name in replace:
        # What stays in a layer with other things would be in the new image, listed by nobody.
        stuck = [ref.path for ref in has[name].files if old.layer(ref) is None]
        if stuck:
            raise RefusedError(
                f"{image.where} has no layer in modelbake's format for {', '.join(stuck)} of {name}, so these files cannot be left out. "
                f"{PLAIN}"
            )


def _files(origins: Iterable[tuple[Contents, Manifest]]) -> dict[str, Layer]:
    """The layer of every file that is listed, by path; without those that are in the runtime in layers not their own."""
    files: dict[str, Layer] = {}
    refs: dict[str, tuple[FileRef, str]] = {}
    for found, listed in origins:
        for entry in listed.bundles:
            for ref in entry.files:
                other, name = refs.setdefault(ref.path, (ref, entry.name))
                if other != ref:
                    raise IntegrityError(
                        f"{ref.path} of {entry.name} and of {name} are different files; graft versions that agree, or rename one's."
                    )
                layer = found.layer(ref)
                if layer and files.setdefault(ref.path, layer).descriptor.digest != layer.descriptor.digest:
                    raise IntegrityError(
                        f"{ref.path} of {entry.name} and of {name} should be one file, but their layers differ; bake or pack them again."
                    )
    for path in refs:
        inside = next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in refs), None)
        if inside is not None:
            raise IntegrityError(f"{inside} of {refs[inside][1]} is a file, but {path} needs a folder there.")
    return files


def _model_layer(path: str, layer: Layer) -> Layer:
    descriptor = layer.descriptor
    plain = Descriptor(LAYER_TAR, descriptor.digest, descriptor.size, annotations=layer_annotations(path))
    return Layer(layer.place, plain, layer.diff_id)


def _config(
    image: Image, base: Sequence[int], listed: Sequence[Descriptor], diff_ids: Sequence[str], labels: dict[str, str]
) -> dict[str, Any]:
    """The runtime's config, whole, with the layers of the new image and the labels that name its bundles."""
    config = dict(image.config)
    config["config"] = {**(config.get("config") or {}), "Labels": image.labels | labels}
    config["rootfs"] = {**config["rootfs"], "diff_ids": list(diff_ids)}
    # A history must have an entry for each layer; one that had not is of no use and would not become so.
    config.pop("history", None)
    if image.history:
        told = [entry for entry, number in image.history if number is None or number in base]
        paths = [(one.annotations or {})[PATH] for one in listed[len(base) :]]
        config["history"] = [*told, *({"created_by": f"modelbake: {path}"} for path in paths)]
    return config

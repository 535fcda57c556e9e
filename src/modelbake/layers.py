"""Models folders into one tree per file, each of which becomes an image layer whose digest depends on that file alone.

The layer format is what BuildKit makes of `COPY --link` from such a tree: a ustar with the parent folders (mode 755) and the file
(mode 644), all owned by root, all time stamps 0. A second writer of the same format needs nothing else to get the same digests.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from modelbake import manifest
from modelbake.errors import IntegrityError, RefusedError, UsageError
from modelbake.files import disk_errors, sha256_of

# How many stages images/layered/Dockerfile has.
MOST_LAYERS = 64
# Where the models stand in an image.
IMAGE_ROOT = "models"


def lay_out(models_dirs: list[Path], to: Path, count: int) -> list[str]:
    """Write the trees `to/01` … `to/<count>` and return the file in each, the manifest last.

    IntegrityError where two folders have different files of one path, or where there are not `count` trees: the image copies
    that many, and would lose or miss files; UsageError where `to` holds something already.
    """
    if to.exists() and any(to.iterdir()):
        raise UsageError(f"{to} is not empty; give a folder that is empty or does not exist yet.")
    files: dict[str, tuple[Path, str]] = {}
    manifests = [manifest.read(folder) for folder in models_dirs]
    for folder, found in zip(models_dirs, manifests, strict=True):
        for ref in (ref for entry in found.bundles for ref in entry.files):
            if files.setdefault(ref.path, (folder, ref.sha256))[1] != ref.sha256:
                raise IntegrityError(
                    f"{ref.path} in {folder} and in {files[ref.path][0]} are different files; rename one bundle's."
                )
    paths = [*sorted(files), manifest.MANIFEST_NAME]
    if len(paths) != count:
        raise IntegrityError(
            f"There are {len(paths)} files to lay out, but the image copies {count}: correct the number of layers in docker-bake.hcl."
        )
    if count > MOST_LAYERS:
        raise IntegrityError(
            f"{count} layers are more than the {MOST_LAYERS} stages of images/layered/Dockerfile; add stages there and here."
        )
    with disk_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        for index, path in enumerate(paths, 1):
            target = to / f"{index:02}" / IMAGE_ROOT / path
            target.parent.mkdir(parents=True)
            if path == manifest.MANIFEST_NAME:
                manifest.write(target.parent, manifest.merge(manifests))
                continue
            source, sha256 = files[path][0] / path, files[path][1]
            if source.is_symlink():
                raise RefusedError(f"{source} is a link; only plain files go into images.")
            if not source.is_file():
                raise IntegrityError(f"{source} is missing although the manifest lists it; build the bundle again.")
            shutil.copyfile(source, target)
            if sha256_of(target) != sha256:
                raise IntegrityError(f"{source} is not the file that the manifest lists; build the bundle again.")
        _normalize(to)
    return paths


def _normalize(root: Path) -> None:
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            os.chmod(Path(folder, name), 0o644)
            os.utime(Path(folder, name), (0, 0))
        os.chmod(folder, 0o755)
        os.utime(folder, (0, 0))

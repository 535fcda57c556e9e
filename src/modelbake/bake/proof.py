"""The proof that built images answer with the network unplugged, on a read-only root, as nobody."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelbake.bake.docker import docker
from modelbake.errors import ParityError
from modelbake.manifest import BundleEntry

TEXT = "hello world"
QUERY, DOCUMENT = "what is a proof", "A proof is evidence that something holds."
SANDBOX = (
    "--rm",
    "--network=none",
    "--read-only",
    "--user=65532:65532",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)


_HASHED = """
import sys
from pathlib import Path
from modelbake import manifest
from modelbake.files import check_files
models = Path("/models")
check_files(models, manifest.read(models).bundle(sys.argv[1]))
"""


def prove(image: str, entries: tuple[BundleEntry, ...], *mounts: str) -> None:
    """Run `image` for each bundle in the sandbox: one that encodes text embeds a text, one that reranks scores a pair, any other
    replays its goldens. Of one of Core ML, which the runtime cannot run, every file is hashed; the build has replayed its goldens.

    ParityError where an answer is not an embedding of unit length, or no score; MachineError where the container fails.
    """
    for entry in entries:
        roles = {artifact.role for artifact in entry.artifacts}
        if any(artifact.format == "coreml" for artifact in entry.artifacts):
            docker("run", *SANDBOX, *mounts, "--entrypoint=python3", image, "-c", _HASHED, entry.name)
            continue
        if "reranker" in roles:
            words = ("rerank", "--bundle", entry.name, "--query", QUERY, "--document", DOCUMENT, "--json")
            _check_score(image, entry, json.loads(docker("run", *SANDBOX, *mounts, image, *words)))
            continue
        if "text_encoder" not in roles:
            docker("run", *SANDBOX, *mounts, image, "verify", "--quiet", entry.name)
            continue
        answer = json.loads(
            docker("run", *SANDBOX, *mounts, image, "embed", "--bundle", entry.name, "--text", TEXT, "--json")
        )
        _check(image, entry, answer)


@contextmanager
def bundle_volume(bundle_image: str, runtime_image: str) -> Iterator[str]:
    """A volume with the files of a bundle image, as the mount option for a runtime container; gone afterwards."""
    volume = f"modelbake-proof-{uuid.uuid4().hex[:12]}"
    docker("volume", "create", volume)
    try:
        containers: list[str] = []
        try:
            for words in ((bundle_image, "unused"), (f"--volume={volume}:/models", runtime_image)):
                containers.append(docker("create", "--network=none", *words).decode().strip())
            docker("cp", "-", f"{containers[1]}:/", stdin=docker("cp", f"{containers[0]}:/models", "-"))
        finally:
            if containers:
                docker("rm", *containers)
        yield f"--volume={volume}:/models:ro"
    finally:
        docker("volume", "rm", volume)


def _check_score(image: str, entry: BundleEntry, answer: dict[str, Any]) -> None:
    (result,) = answer["results"]
    if not isinstance(result["score"], float) or not math.isfinite(result["score"]):
        raise ParityError(
            f"{image}: {entry.name} answered {result['score']}, which is no score; do not use this image."
        )


def _check(image: str, entry: BundleEntry, answer: dict[str, Any]) -> None:
    (embedding,) = answer["embeddings"]
    length = math.sqrt(sum(value * value for value in embedding))
    dimension = entry.artifact("text_encoder").embedding_dimension
    if len(embedding) != dimension or not abs(length - 1) < 1e-4:
        raise ParityError(
            f"{image}: {entry.name} answered {len(embedding)} numbers of length {length:.6f}, not {dimension} of length 1; "
            "do not use this image."
        )

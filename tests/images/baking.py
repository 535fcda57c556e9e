"""Builds for tests: as `modelbake bake` does them, with the same secrets and contexts, but into archives or the cache alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from modelbake import settings
from modelbake.bake import buildx
from modelbake.bake.host import HostInputs, host_inputs
from modelbake.bake.run import weight_overrides
from tests.images.engine import ROOT, weights_of

CACHE_ONLY = "type=cacheonly"


def to_archive(path: Path) -> str:
    """The output that writes an OCI archive with plain layers."""
    return f"type=oci,dest={path},compression=uncompressed,force-compression=true"


def host() -> HostInputs:
    """What `modelbake bake` would hand to the build on this machine."""
    return host_inputs(settings.from_environment(os.environ, ROOT))


def bake(
    outputs: dict[str, str],
    *,
    root: Path = ROOT,
    anew: Iterable[str] = (),
    overrides: Iterable[str] = (),
    inputs: HostInputs | None = None,
) -> buildx.Events:
    """Bake the targets of `outputs`, each to its output, with the weights that the baked images have.

    anew: targets (trees-…) whose own steps are run whatever the caches hold; what they stand on may come from the cache.
    """
    plan = buildx.plan_bake(root, tuple(outputs))
    # Needed for what is asked for, but not asked for: labels and weights go there as well.
    weights = weights_of("search")
    sets = weight_overrides(weights, set(plan.targets), set(weights))
    sets += [f"{target}.output={output}" for target, output in outputs.items()]
    sets += [f"{target}.{setting}" for target in anew for setting in ("no-cache=true", "args.STEPS=/tmp/steps")]
    return buildx.bake(root, plan, [*sets, *overrides], inputs or host(), no_cache=False)


def steps_run(events: buildx.Events) -> list[str]:
    """The names of the RUN and COPY steps that were not taken from the cache."""
    return [
        vertex.name
        for vertex in events.vertexes.values()
        if vertex.completed and not vertex.cached and (" RUN " in vertex.name or " COPY " in vertex.name)
    ]


def copy_project(to: Path) -> Path:
    """A copy of the project's files, those that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to

"""One bake from beginning to end: choose weights, build, read the manifests back, prove."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from modelbake import manifest
from modelbake.bake import buildx, proof
from modelbake.bake.docker import inspect_image, read_file
from modelbake.bake.host import host_inputs
from modelbake.bundle import Bundle, HubSource, SourceSpec, refuse_unpinned
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.manifest import BundleEntry, Weights
from modelbake.output import out
from modelbake.settings import Settings
from modelbake.sources.fetch import Fetcher

WEIGHTS_LABEL = "io.modelbake.weights"
# What docker-bake.hcl puts before the name of a target that is published; such a target inherits all of the other.
RELEASE = "release-"


@dataclass(frozen=True)
class BakedImage:
    """One image of the table.

    `size` in bytes (None where it is not in the engine), `weights` by bundle, the worst parity figure, `seconds` of its own steps.
    """

    name: str
    id: str
    size: int | None
    bundles: tuple[str, ...]
    weights: dict[str, str]
    max_abs_diff: float | None
    seconds: float
    proof: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run_bake(settings: Settings, catalog: Catalog, names: tuple[str, ...], no_cache: bool) -> list[BakedImage]:
    """Build the targets named (default: the default group) and return their images.

    With a bundle the runtime is built too, since the proof runs the bundle in it.
    """
    plan = buildx.plan_bake(settings.root, names)
    if any(target.startswith("bundle-") for target in plan.wanted) and "runtime" not in plan.wanted:
        plan = buildx.plan_bake(settings.root, (*plan.wanted, "runtime"))
    bundles = [catalog.get(name) for name in catalog.names() if f"trees-{name}" in plan.targets]
    if settings.locked:
        refuse_unpinned(bundles)
    weights = {bundle.name: choose_weights(settings, bundle) for bundle in bundles}
    overrides = weight_overrides(weights, set(plan.targets), {bundle.name for bundle in bundles if bundle.default})
    if settings.locked:
        overrides += [f"trees-{bundle.name}.args.LOCKED=1" for bundle in bundles]
    if no_cache:
        # BuildKit keeps its cache mounts all the same, and with them the results of the steps.
        overrides += [f"trees-{bundle.name}.args.STEPS=/tmp/steps" for bundle in bundles]
    events = buildx.bake(settings.root, plan, overrides, host_inputs(settings), no_cache)
    times = events.seconds_by_target()
    images = {target: plan.targets[target]["tags"][0] for target in plan.wanted if plan.targets[target].get("tags")}
    return [_baked(settings, target, images, times) for target in images]


def choose_weights(settings: Settings, bundle: Bundle) -> Weights:
    """The weights to build the bundle with: as WEIGHTS says, or for auto the real ones where a source has them now.

    SourceUnreachableError naming every source where only the real ones are allowed and none has them.
    """
    real: Weights = "trained" if bundle.kind == "boundary_regressor" else "pretrained"
    if bundle.sample_source is None:
        return real
    if settings.weights == "sample":
        return "sample"
    found, reasons = _available_to_a_build(settings, bundle)
    if found:
        return real
    tried = "\n".join(f"  - {reason}" for reason in reasons)
    if settings.weights == "pretrained":
        raise SourceUnreachableError(
            f"{bundle.name}: no source has its files, and WEIGHTS=pretrained allows no others. Tried:\n{tried}\n"
            "Check the network and HF_ENDPOINT, or leave WEIGHTS out to build with sample weights."
        )
    out.warn(
        f"{bundle.name}: building with SAMPLE WEIGHTS (random), since no source has the real ones. Tried:\n{tried}"
    )
    return "sample"


def _available_to_a_build(settings: Settings, bundle: Bundle) -> tuple[bool, list[str]]:
    """Whether the fetch stage will find the real files. It sees neither this host's blobs nor the hub client's cache here."""
    reasons = []
    if settings.hub_offline:
        bundle = replace(
            bundle,
            sources=_without_hubs(bundle.sources),
            fallbacks=tuple(replace(f, sources=_without_hubs(f.sources)) for f in bundle.fallbacks),
        )
        reasons.append("hub: HF_HUB_OFFLINE is set")
    found, more = Fetcher(dataclasses.replace(settings, cache_dir=settings.cache_dir / "check")).available(bundle)
    return found, reasons + more


def _without_hubs(sources: tuple[SourceSpec, ...]) -> tuple[SourceSpec, ...]:
    return tuple(source for source in sources if not isinstance(source, HubSource))


def weight_overrides(weights: dict[str, Weights], plan: set[str], defaults: set[str]) -> list[str]:
    """What --set tells bake: each bundle's weights as a build argument, and in the labels of the images that hold it.

    `defaults` are the bundles that the search image holds.
    """
    overrides = []
    for name, kind in weights.items():
        overrides.append(f"trees-{name}.args.WEIGHTS={'sample' if kind == 'sample' else 'pretrained'}")
        overrides += [f"{prefix}bundle-{name}.labels.{WEIGHTS_LABEL}={name}={kind}" for prefix in ("", RELEASE)]
    held = weights_label({name: kind for name, kind in weights.items() if name in defaults})
    overrides += [f"{prefix}search.labels.{WEIGHTS_LABEL}={held}" for prefix in ("", RELEASE)]
    return [override for override in overrides if override.partition(".")[0] in plan]


def weights_label(weights: dict[str, Any]) -> str:
    """The label's value: `bundle=weights`, sorted, with commas between."""
    return ",".join(f"{name}={kind}" for name, kind in sorted(weights.items()))


def _baked(settings: Settings, target: str, images: dict[str, str], times: dict[str, float]) -> BakedImage:
    name = images[target]
    own = target.removeprefix(RELEASE)
    spent = sum(times.get(t, 0.0) for t in (target, own.replace("bundle-", "trees-"), f"trees-{own}"))
    if own != target:
        return BakedImage(name, "", None, (), {}, None, spent, "pushed, not run")
    found = inspect_image(name)
    label = (found["Config"].get("Labels") or {}).get(WEIGHTS_LABEL)
    entries: tuple[BundleEntry, ...] = ()
    if label is not None:
        entries = manifest.decode(
            read_file(name, f"/models/{manifest.MANIFEST_NAME}"), f"the manifest of {name}"
        ).bundles
        said = weights_label({entry.name: entry.weights for entry in entries})
        if said != label:
            raise IntegrityError(
                f"{name} is labelled {label}, but its manifest says {said}; build it anew with --no-cache."
            )
    return BakedImage(
        name=name,
        id=found["Id"],
        size=found["Size"],
        bundles=tuple(entry.name for entry in entries),
        weights={entry.name: entry.weights for entry in entries},
        max_abs_diff=max(
            (a.parity.max_abs_diff for entry in entries for a in entry.artifacts if a.parity), default=None
        ),
        seconds=spent,
        proof=_proof(settings, target, name, images.get("runtime"), found["Id"], entries),
    )


def _proof(
    settings: Settings, target: str, name: str, runtime: str | None, image_id: str, entries: tuple[BundleEntry, ...]
) -> str:
    """Prove an image that holds bundles, unless this very image was proven before."""
    if not entries:
        return "-"
    runtime_id = inspect_image(runtime)["Id"] if runtime and target != "search" else ""
    mark = settings.cache_dir / "proofs" / f"{image_id.partition(':')[2]}-{runtime_id.partition(':')[2]}"
    if mark.exists():
        return "as before"
    if target == "search":
        proof.prove(name, entries)
    elif runtime is None:
        return "needs the runtime"
    else:
        with proof.bundle_volume(name, runtime) as mount:
            proof.prove(runtime, entries, mount)
    _touch(mark)
    return "passed"


def _touch(mark: Path) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()

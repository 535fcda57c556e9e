"""A whole bake against a stub of docker: the plan, the weights, the secrets, the images and their proof."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest

from modelbake import manifest
from modelbake.bake import buildx, run
from modelbake.bake.buildx import Plan, plan_bake
from modelbake.bake.host import HostInputs
from modelbake.bake.run import choose_weights, run_bake, weight_overrides, weights_label
from modelbake.bundle import Bundle, Fallback, HubSource, LocalSource
from modelbake.catalog import Catalog
from modelbake.errors import (
    IntegrityError,
    MachineError,
    ParityError,
    RefusedError,
    SourceUnreachableError,
    UnknownNameError,
)
from modelbake.manifest import BundleEntry, Manifest
from modelbake.settings import Settings, from_environment
from tests.unit import tiny, tiny_reranker
from tests.unit.bake.stub import StubDocker

ROOT = Path(__file__).resolve().parents[3]
PASSED = (Path(__file__).parent / "data" / "passed.txt").read_text(encoding="utf-8")
NOTHING = HostInputs(None, None, None, None)
GROUPS = {
    "default": {"targets": ["runtime", "bundles", "search"]},
    "bundles": {"targets": ["bundle"]},
    "bundle": {"targets": ["bundle-a", "bundle-b"]},
}


def printed(*targets: str, group: dict[str, Any] | None = None) -> str:
    found: dict[str, Any] = {name: {"tags": [f"modelbake/{name}:dev"]} for name in targets}
    found |= {name: {"output": [{"type": "cacheonly"}]} for name in targets if name.startswith("trees-")}
    return json.dumps({"group": GROUPS if group is None else group, "target": found})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "root").mkdir()
    return from_environment({"MODELBAKE_ROOT": str(tmp_path / "root"), "MODELBAKE_CACHE": str(tmp_path / "cache")})


def bundle(name: str = "tiny", sample: bool = True, kind: str = "text_encoder") -> Bundle:
    models = {
        "text_encoder": {"kind": "text_encoder", "model": "Tiny", "max_tokens": 5},
        "boundary_regressor": {"kind": "boundary_regressor", "model": "r", "data": "a"},
    }
    real = {"type": "hub", "repository": "o/r", "revision": "main"}
    document = {
        "schema_version": 1,
        "name": name,
        "version": "1.0.0",
        "description": "",
        "licence": "MIT",
        "model": models[kind],
        "sources": [real, {"type": "sample", "seed": 1}] if sample else [real],
        "files": [{"path": "a"}],
        "pinned": False,
    }
    return msgspec.convert(document, Bundle)


def test_the_plan_holds_the_targets_wanted_with_groups_expanded(docker: StubDocker, settings: Settings) -> None:
    docker.answer("buildx", "bake", "--print", out=printed("runtime", "bundle-a", "bundle-b", "trees-a", "search"))
    plan = plan_bake(settings.root, ())
    assert plan.wanted == ("runtime", "bundle-a", "bundle-b", "search")
    assert set(plan.targets) == {"runtime", "bundle-a", "bundle-b", "trees-a", "search"}
    assert docker.calls == [["buildx", "bake", "--print"]]
    assert plan_bake(settings.root, ("search", "bundles", "bundle-a")).wanted == ("search", "bundle-a", "bundle-b")


def test_a_target_that_is_not_there_is_an_unknown_name(docker: StubDocker, settings: Settings) -> None:
    docker.answer("buildx", err="#1 DONE 0.0s\nERROR: failed to find target nosuch\n", code=1)
    with pytest.raises(UnknownNameError, match="no target 'nosuch'"):
        plan_bake(settings.root, ("nosuch",))


@pytest.mark.parametrize(
    ("err", "words"), [("docker-bake.hcl:3 Invalid expression\n", "docker-bake.hcl:3 Invalid"), ("", "it said nothing")]
)
def test_a_plan_that_fails_gives_docker_s_words(docker: StubDocker, settings: Settings, err: str, words: str) -> None:
    docker.answer("buildx", err=err, code=1)
    with pytest.raises(MachineError, match=words):
        plan_bake(settings.root, ())


def test_weights_go_to_the_targets_of_the_plan_alone() -> None:
    weights: dict[str, manifest.Weights] = {"a": "sample", "b": "trained", "c": "pretrained"}
    assert weight_overrides(
        weights, {"trees-a", "bundle-a", "trees-b", "bundle-b", "trees-c", "search"}, {"a", "c"}
    ) == [
        "trees-a.args.WEIGHTS=sample",
        "bundle-a.labels.io.modelbake.weights=a=sample",
        "trees-b.args.WEIGHTS=pretrained",
        "bundle-b.labels.io.modelbake.weights=b=trained",
        "trees-c.args.WEIGHTS=pretrained",
        "search.labels.io.modelbake.weights=a=sample,c=pretrained",
    ]
    assert weight_overrides(weights, {"runtime"}, {"a"}) == []
    assert weight_overrides({"a": "sample"}, {"release-bundle-a", "release-search"}, {"a"}) == [
        "release-bundle-a.labels.io.modelbake.weights=a=sample",
        "release-search.labels.io.modelbake.weights=a=sample",
    ]


def test_the_label_is_sorted_and_empty_for_nothing() -> None:
    assert weights_label({"b": "sample", "a": "trained"}) == "a=trained,b=sample"
    assert weights_label({}) == ""


class StubFetcher:
    """Says whether a source has the files, without asking one."""

    found = True
    cache_dir = Path()
    asked: tuple[object, ...] = ()

    def __init__(self, settings: Settings) -> None:
        type(self).cache_dir = settings.cache_dir

    def available(self, bundle: Bundle) -> tuple[bool, list[str]]:
        type(self).asked = bundle.sources
        return self.found, [] if self.found else ["hub o/r: cannot be reached", "wheel x: not there"]


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> type[StubFetcher]:
    monkeypatch.setattr(run, "Fetcher", StubFetcher)
    StubFetcher.found = True
    return StubFetcher


def test_auto_takes_the_real_weights_where_a_source_has_them(settings: Settings, reachable: type[StubFetcher]) -> None:
    assert choose_weights(settings, bundle()) == "pretrained"
    assert choose_weights(settings, bundle(kind="boundary_regressor")) == "trained"


def test_auto_takes_sample_weights_with_a_warning_that_names_every_source(
    settings: Settings, reachable: type[StubFetcher], capsys: pytest.CaptureFixture[str]
) -> None:
    reachable.found = False
    assert choose_weights(settings, bundle()) == "sample"
    said = capsys.readouterr().err
    assert said.startswith("WARNING: tiny: building with SAMPLE WEIGHTS (random)")
    assert "hub o/r: cannot be reached" in said
    assert "wheel x: not there" in said


def test_what_only_this_host_has_counts_for_nothing(settings: Settings, reachable: type[StubFetcher]) -> None:
    choose_weights(settings, bundle())
    assert reachable.cache_dir != settings.cache_dir
    assert any(isinstance(source, HubSource) for source in reachable.asked)
    choose_weights(replace(settings, hub_offline=True), bundle())
    assert not any(isinstance(source, HubSource) for source in reachable.asked)


def test_fallbacks_are_asked_too_and_not_their_hubs_where_none_may_be(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Bundle] = []

    class Noting(StubFetcher):
        def available(self, bundle: Bundle) -> tuple[bool, list[str]]:
            asked.append(bundle)
            return True, []

    monkeypatch.setattr(run, "Fetcher", Noting)
    own = bundle()
    other = Fallback(own.model, "MIT", (HubSource("o/other", "main"), LocalSource("data")), own.files, False)
    own = msgspec.structs.replace(own, fallbacks=(other,))
    assert choose_weights(settings, own) == "pretrained"
    assert choose_weights(replace(settings, hub_offline=True), own) == "pretrained"
    assert asked[0] == own
    assert asked[1].fallbacks[0].sources == (LocalSource("data"),)
    assert not any(isinstance(source, HubSource) for source in asked[1].sources)


def test_pretrained_allows_no_others(settings: Settings, reachable: type[StubFetcher]) -> None:
    strict = replace(settings, weights="pretrained")
    assert choose_weights(strict, bundle()) == "pretrained"
    reachable.found = False
    with pytest.raises(SourceUnreachableError, match=r"(?s)tiny: no source.*hub o/r: cannot.*wheel x") as caught:
        choose_weights(strict, bundle())
    assert caught.value.exit_code == 4


def test_sample_asks_no_source(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Fetcher", None)
    assert choose_weights(replace(settings, weights="sample"), bundle()) == "sample"
    assert choose_weights(replace(settings, weights="sample"), bundle(sample=False)) == "pretrained"


def bake(docker: StubDocker, settings: Settings, host: HostInputs = NOTHING, no_cache: bool = False) -> buildx.Events:
    targets = {"runtime": {"output": [{"type": "docker"}]}, "bundle-a": {}, "trees-a": {}}
    return buildx.bake(settings.root, Plan(targets, ("runtime", "bundle-a")), ["a.args.X=1"], host, no_cache)


def overrides(words: list[str]) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == "--set"]


def test_a_build_loads_what_was_asked_for_and_not_what_is_merely_needed(docker: StubDocker, settings: Settings) -> None:
    docker.answer("buildx", "bake", err=PASSED)
    events = bake(docker, settings)
    assert events.targets == ("runtime", "bundle-a", "trees-a")
    (words,) = docker.calls
    assert words[:3] == ["buildx", "bake", "--progress=rawjson"]
    assert words[-2:] == ["runtime", "bundle-a"]
    assert overrides(words) == ["a.args.X=1", "bundle-a.output=type=docker"]
    assert docker.environs[0]["BUILDX_NO_DEFAULT_LOAD"] == "1"
    bake(docker, settings, no_cache=True)
    assert "--no-cache" in docker.calls[-1]


def test_secrets_are_never_words_of_the_command(docker: StubDocker, settings: Settings, tmp_path: Path) -> None:
    docker.answer("buildx", "bake", keep="id=pipconf,src=")
    host = HostInputs(
        "[global]\nindex-url = https://me:p4ss@index/\n", tmp_path / "wheels", tmp_path / "ca.pem", "t0ken"
    )
    bake(docker, settings, host)
    (words,) = docker.calls
    assert "p4ss" not in " ".join(words)
    assert "t0ken" not in " ".join(words)
    assert docker.environs[0]["HF_TOKEN"] == "t0ken"
    assert docker.kept == b"[global]\nindex-url = https://me:p4ss@index/\n"
    secrets = [word for word in overrides(words) if word.startswith("*.secrets=")]
    assert "*.secrets=id=hf_token,env=HF_TOKEN" in secrets
    assert f"*.secrets=id=ca,src={tmp_path / 'ca.pem'}" in secrets
    assert f"*.contexts.wheels={tmp_path / 'wheels'}" in overrides(words)
    path = Path(next(word.partition("src=")[2] for word in secrets if "pipconf" in word))
    assert not path.exists(), "the file is gone after the build"


def test_a_build_that_fails_gives_the_step_s_own_exit_code(docker: StubDocker, settings: Settings) -> None:
    own = "[trees-a export 1/1] RUN bash scripts/setup_models_docker.sh build"
    data = "ZXJyb3I6IHRoZSBnYXRlIHdhcyBtaXNzZWQK"  # error: the gate was missed
    events: list[dict[str, Any]] = [
        {"vertexes": [{"digest": "1", "name": own}]},
        {"logs": [{"vertex": "1", "data": data}]},
        {
            "vertexes": [
                {"digest": "1", "name": own, "error": 'process "x" did not complete successfully: exit code: 6'}
            ]
        },
    ]
    docker.answer("buildx", "bake", err="\n".join(map(json.dumps, events)) + "\nERROR: failed to solve\n", code=1)
    with pytest.raises(buildx.BuildError, match="the gate was missed") as caught:
        bake(docker, settings)
    assert caught.value.exit_code == 6


def archive(path: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    info = tarfile.TarInfo(path)
    info.size = len(data)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def entry(tmp_path: Path) -> BundleEntry:
    return tiny.text_bundle(tmp_path / "models", name="a")


def answers(
    docker: StubDocker, entry: BundleEntry, label: str = "a=sample", vector: tuple[float, ...] = (1, 0, 0, 0)
) -> None:
    """Everything that a bake of runtime, bundle-a and search asks of docker."""
    groups = {"default": {"targets": ["runtime", "bundle-a", "search"]}}
    docker.answer("buildx", "bake", "--print", out=printed("runtime", "bundle-a", "trees-a", "search", group=groups))
    docker.answer("buildx", "bake", err=PASSED)
    for name, labels in (("runtime", None), ("bundle-a", label), ("search", label)):
        described = {
            "Id": f"sha256:{name}",
            "Size": 2_000_000,
            "Config": {"Labels": labels and {run.WEIGHTS_LABEL: labels}},
        }
        docker.answer("image", "inspect", f"modelbake/{name}:dev", out=json.dumps([described]))
    docker.answer("create", "--network=none", "modelbake/bundle-a:dev", out="made-bundle\n")
    docker.answer("create", "--network=none", "modelbake/search:dev", out="made-search\n")
    docker.answer("create", out="made-runtime\n")
    data = archive("model_manifest.json", manifest.encode(Manifest(1, (entry,))))
    for container in ("made-bundle", "made-search"):
        docker.answer("cp", f"{container}:/models/model_manifest.json", "-", out=data)
    docker.answer("cp", "made-bundle:/models", "-", out=b"tar")
    docker.answer("cp", "-", "made-runtime:/")
    docker.answer("run", out=json.dumps({"embeddings": [vector]}))
    docker.answer("volume")
    docker.answer("rm")


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    (settings.bundles_dir / "a").mkdir(parents=True)
    text = """
schema_version = 1
name = "a"
version = "1.0.0"
description = ""
licence = "MIT"
pinned = false
model = { kind = "text_encoder", model = "Tiny", max_tokens = 5 }
sources = [{ type = "sample", seed = 1 }]
files = [{ path = "x" }]
"""
    (settings.bundles_dir / "a" / "bundle.toml").write_text(text)
    return Catalog(settings.bundles_dir)


def test_a_bake_tells_and_proves_every_image_once(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    answers(docker, entry)
    sample = replace(settings, weights="sample")
    baked = run_bake(sample, catalog, (), no_cache=False)
    assert [(image.name, image.proof) for image in baked] == [
        ("modelbake/runtime:dev", "-"),
        ("modelbake/bundle-a:dev", "passed"),
        ("modelbake/search:dev", "passed"),
    ]
    assert baked[1].bundles == ("a",)
    assert baked[1].weights == {"a": "sample"}
    assert baked[1].max_abs_diff == 1e-6
    assert baked[0].max_abs_diff is None
    assert json.loads(json.dumps(baked[2].as_json()))["size"] == 2_000_000
    proofs = [words for words in docker.calls if words[0] == "run"]
    for words in proofs:
        assert {"--network=none", "--read-only", "--cap-drop=ALL", "--user=65532:65532"} <= set(words)
    volume = next(word for word in proofs[0] if word.startswith("--volume="))
    assert volume.endswith(":/models:ro")
    assert ["volume", "rm", volume.removeprefix("--volume=").partition(":")[0]] in docker.calls
    assert [image.proof for image in run_bake(sample, catalog, (), no_cache=False)] == ["-", "as before", "as before"]
    assert len([words for words in docker.calls if words[0] == "run"]) == len(proofs)


def test_a_bundle_comes_with_the_runtime_that_proves_it(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    answers(docker, entry)
    baked = run_bake(replace(settings, weights="sample"), catalog, ("bundle-a",), no_cache=False)
    assert [(image.name, image.proof) for image in baked] == [
        ("modelbake/bundle-a:dev", "passed"),
        ("modelbake/runtime:dev", "-"),
    ]


def test_without_cache_the_results_of_earlier_steps_are_left_alone_too(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    answers(docker, entry)
    run_bake(replace(settings, weights="sample"), catalog, (), no_cache=True)
    (built,) = [words for words in docker.calls if words[:2] == ["buildx", "bake"] and "--print" not in words]
    assert "--no-cache" in built
    assert "trees-a.args.STEPS=/tmp/steps" in built


def test_a_locked_bake_refuses_what_is_not_pinned_before_it_builds(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    answers(docker, entry)
    with pytest.raises(RefusedError, match="modelbake lock a"):
        run_bake(replace(settings, weights="sample", locked=True), catalog, (), no_cache=False)
    assert docker.calls == [["buildx", "bake", "--print"]]


def test_a_locked_bake_tells_the_build_so(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    path = settings.bundles_dir / "a" / "bundle.toml"
    path.write_text(
        path.read_text()
        .replace("pinned = false", "pinned = true")
        .replace('path = "x"', f'path = "x", sha256 = "{"0" * 64}"')
    )
    answers(docker, entry)
    run_bake(replace(settings, weights="sample", locked=True), catalog, (), no_cache=False)
    (built,) = [words for words in docker.calls if words[:2] == ["buildx", "bake"] and "--print" not in words]
    assert "trees-a.args.LOCKED=1" in built


def test_what_is_published_is_not_run(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    group = {"release": {"targets": ["release-bundle-a"]}}
    docker.answer("buildx", "bake", "--print", out=printed("release-bundle-a", "bundle-a", "trees-a", group=group))
    docker.answer("buildx", "bake", err=PASSED)
    (image,) = run_bake(replace(settings, weights="sample"), catalog, ("release",), no_cache=False)
    assert (image.name, image.size, image.proof) == ("modelbake/release-bundle-a:dev", None, "pushed, not run")
    assert [words[0] for words in docker.calls] == ["buildx", "buildx"]


@pytest.mark.parametrize("vector", [(1, 0, 0), (1, 1, 0, 0), (0, 0, 0, 0), (float("nan"), 0, 0, 0)])
def test_an_image_whose_answer_is_no_embedding_is_not_proven(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry, vector: tuple[float, ...]
) -> None:
    answers(docker, entry, vector=vector)
    with pytest.raises(ParityError, match="do not use this image"):
        run_bake(replace(settings, weights="sample"), catalog, (), no_cache=False)
    assert not (settings.cache_dir / "proofs").exists()
    assert docker.calls[-1][:2] == ["volume", "rm"]


def test_a_label_that_is_not_what_the_manifest_says_is_an_integrity_error(
    docker: StubDocker, settings: Settings, catalog: Catalog, entry: BundleEntry
) -> None:
    answers(docker, entry, label="a=pretrained")
    with pytest.raises(IntegrityError, match="is labelled a=pretrained, but its manifest says a=sample"):
        run_bake(replace(settings, weights="sample"), catalog, (), no_cache=False)


def hcl_bundles() -> list[dict[str, Any]]:
    text = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
    block = re.search(r'variable "BUNDLES" \{\s*default = \[(.*?)\n  \]', text, re.DOTALL)
    assert block is not None
    return [dict(re.findall(r'(\w+) = "?([^",]*?)"?(?:,| \})', line)) for line in re.findall(r"\{.*\}", block[1])]


def test_docker_bake_builds_the_bundles_of_the_catalog_and_no_others() -> None:
    found = {entry["name"]: entry for entry in hcl_bundles()}
    catalog = Catalog(ROOT / "bundles")
    assert list(found) == catalog.names()
    for name in catalog.names():
        trained = catalog.get(name).kind == "boundary_regressor"
        assert found[name]["trained"] == str(trained).lower()
        assert found[name]["default"] == str(catalog.get(name).default).lower()
        for folder in [source.folder for source in catalog.get(name).sources if hasattr(source, "folder")]:
            assert found[name]["data"]
            assert PurePosixPath(folder).is_relative_to(found[name]["data"])
        assert bool(found[name]["data"]) == trained
        assert int(found[name]["layers"]) >= 4


def test_the_search_image_lays_out_just_the_default_bundles() -> None:
    text = (ROOT / "images" / "search" / "Dockerfile").read_text(encoding="utf-8")
    mounts = re.findall(r"--mount=type=bind,from=([^,]+),target=/in/([^ ]+)", text)
    assert [source for source, _ in mounts] == [entry["name"] for entry in hcl_bundles() if entry["default"] == "true"]
    assert all(source == target for source, target in mounts)


def test_a_reranker_is_proven_by_a_score(
    docker: StubDocker, settings: Settings, catalog: Catalog, tmp_path: Path
) -> None:
    entry = tiny_reranker.bundle(tmp_path / "models", name="a")
    docker.answer("run", out=json.dumps({"results": [{"index": 0, "score": -3.5, "document": "x"}]}))
    answers(docker, entry)
    baked = run_bake(replace(settings, weights="sample"), catalog, (), no_cache=False)
    assert [image.proof for image in baked] == ["-", "passed", "passed"]
    words = next(words for words in docker.calls if words[0] == "run")
    assert words[words.index("rerank") :][:3] == ["rerank", "--bundle", "a"]
    assert {"--query", "--document", "--json", "--network=none"} <= set(words)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "1"])
def test_an_image_whose_answer_is_no_score_is_not_proven(
    docker: StubDocker, settings: Settings, catalog: Catalog, tmp_path: Path, score: object
) -> None:
    entry = tiny_reranker.bundle(tmp_path / "models", name="a")
    docker.answer("run", out=json.dumps({"results": [{"index": 0, "score": score, "document": "x"}]}))
    answers(docker, entry)
    with pytest.raises(ParityError, match="do not use this image"):
        run_bake(replace(settings, weights="sample"), catalog, (), no_cache=False)

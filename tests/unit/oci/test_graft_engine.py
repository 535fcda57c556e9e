"""Into and out of an engine: what moves, what is asked again, and what a failing docker client leaves. The client is a stand-in."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from modelbake.cli.main import run
from modelbake.errors import IntegrityError, MachineError, UnknownNameError
from modelbake.oci import engine
from modelbake.oci.graft import Source, graft, plan
from modelbake.oci.model import IMAGE_INDEX, MOST_MANIFEST_BYTES, Descriptor, ImageIndex, encode
from modelbake.oci.store import Store
from tests.unit.oci import made

# A docker that keeps blobs and names in a folder: it loads OCI layouts that lack blobs which it has, as docker 26 does.
CLIENT = """#!{python} -SE
import hashlib, io, json, os, sys, tarfile
home = {home!r}
words = [word for word in sys.argv[1:] if word != "--"]
blobs, names = os.path.join(home, "blobs"), os.path.join(home, "names.json")
known = json.load(open(names)) if os.path.exists(names) else {{}}
os.makedirs(blobs, exist_ok=True)
def path(digest): return os.path.join(blobs, digest.split(":")[-1])
def read(digest): return open(path(digest), "rb").read()
def fail(message):
    sys.stderr.write(message + chr(10))
    sys.exit(1)
open(os.path.join(home, "calls"), "a").write(" ".join(words[:2]) + chr(10))
if os.path.exists(os.path.join(home, "down")): fail("Cannot connect to the Docker daemon")
if words[0] == "load":
    if os.path.exists(os.path.join(home, "full")):
        sys.stdin.buffer.read(512)
        fail("no space left on device")
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        found = {{member.name: tar.extractfile(member).read() for member in tar}}
    came = [name.rpartition("/")[2] for name in found if name.startswith("blobs/")]
    open(os.path.join(home, "came"), "w").write(json.dumps(came))
    for name in came:
        data = found["blobs/sha256/" + name]
        assert hashlib.sha256(data).hexdigest() == name
        open(path(name), "wb").write(data)
    (root,) = json.loads(found["index.json"])["manifests"]
    manifest = json.loads(read(root["digest"]))
    older = json.loads(found["manifest.json"])[0]
    assert older["Layers"] == ["blobs/sha256/" + one["digest"][7:] for one in manifest["layers"]]
    for one in (manifest["config"], *manifest["layers"]):
        # As overlay2 does where a layer stands upon others than before.
        gone = os.path.exists(os.path.join(home, "strict")) and one["digest"][7:] not in came
        if gone or not os.path.exists(path(one["digest"])): fail("content digest " + one["digest"] + ": not found")
    print("Loaded image ID: " + root["digest"])
elif words[0] == "tag":
    known[words[2]] = words[1]
    json.dump(known, open(names, "w"))
elif words[0] == "save":
    if words[1] not in known: fail("Error response from daemon: No such image: " + words[1])
    cut = os.path.exists(os.path.join(home, "cut"))
    kind = json.loads(read(known[words[1]]))["mediaType"]
    index = {{"schemaVersion": 2, "manifests": [{{"mediaType": kind, "digest": known[words[1]], "size": len(read(known[words[1]]))}}]}}
    entries = {{"blobs/sha256/" + name: open(os.path.join(blobs, name), "rb").read() for name in sorted(os.listdir(blobs))}}
    entries["index.json"] = json.dumps(index).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    sys.stdout.buffer.write(whole.getvalue()[: 3000 if cut else None])
    if cut: fail("unexpected EOF")
elif words[:2] == ["image", "ls"]:
    print(chr(10).join(known.values()))
elif words[:2] == ["image", "inspect"]:
    diff_ids = []
    for digest in words[2:]:
        found = json.loads(read(digest))
        for one in found.get("manifests", [{{"digest": digest}}]):
            diff_ids.append(json.loads(read(json.loads(read(one["digest"]))["config"]["digest"]))["rootfs"]["diff_ids"])
    print(json.dumps([{{"RootFS": {{"Layers": one}}}} for one in diff_ids]))
elif words[0] == "version":
    print(json.dumps({{"Os": "linux", "Arch": "arm64"}}))
else:
    fail("unknown command " + " ".join(words))
"""


class Engine:
    """The stand-in's folder."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def holds(self, name: str, source: Source) -> None:
        """Let the engine have an image and all its blobs."""
        store, root = source
        assert isinstance(store, Store)
        (self.home / "blobs").mkdir(exist_ok=True)
        from modelbake.oci.place import reachable

        for one in reachable(store, root):
            (self.home / "blobs" / one.hex).write_bytes(store.path(one).read_bytes())
        self._names({name: root.digest})

    def _names(self, more: dict[str, str]) -> None:
        (self.home / "names.json").write_text(json.dumps(self.names | more))

    @property
    def names(self) -> dict[str, str]:
        path = self.home / "names.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    @property
    def came(self) -> set[str]:
        """The digests of the blobs that the last `docker load` was sent."""
        return {f"sha256:{name}" for name in json.loads((self.home / "came").read_text())}

    def lose(self, descriptor: Descriptor) -> None:
        (self.home / "blobs" / descriptor.hex).unlink()

    @property
    def calls(self) -> list[str]:
        return (self.home / "calls").read_text().splitlines()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    home, client = tmp_path / "engine", tmp_path / "bin" / "docker"
    home.mkdir()
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, home=str(home)))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    return Engine(home)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def new_blobs(grafted: Any) -> set[str]:
    return {blob.descriptor.digest for blob in grafted.blobs}


def saved(name: str, folder: Path, heads: bool = False) -> Source:
    store = Store(folder)
    with store.adding():
        return store, engine.save(name, store, heads)


def test_only_what_the_engine_lacks_is_sent(docker: Engine, store: Store) -> None:
    runtime, a = made.runtime(store, packed=False), made.bundle(store, "a")
    docker.holds("runtime", runtime)
    grafted = plan(runtime, [a])

    moved = engine.load(grafted, "new:1")
    bundle_layers = {one.digest for one in made.manifest_of(a).layers[:-1]}
    assert docker.came == new_blobs(grafted) | bundle_layers
    assert docker.names["new:1"] == grafted.image.digest
    assert moved.sent_blobs == 5
    assert moved.total - moved.sent == sum(one.size for one in made.manifest_of(runtime).layers)
    assert engine.load(grafted, "new:2").sent_blobs == 3
    assert docker.came == new_blobs(grafted)


def test_layers_that_the_engine_holds_compressed_are_known_by_what_they_unpack_to(docker: Engine, store: Store) -> None:
    runtime = made.runtime(store)
    docker.holds("runtime", runtime)
    grafted = plan(runtime, [made.bundle(store, "a")])
    engine.load(grafted, "new:1")

    assert docker.came.isdisjoint(one.digest for one in made.manifest_of(runtime).layers)


def test_where_the_engine_holds_a_layer_in_another_form_all_are_sent(docker: Engine, store: Store) -> None:
    packed, plain = made.runtime(store), made.runtime(store, packed=False)
    assert made.config_of(packed) == made.config_of(plain)
    docker.holds("runtime", plain)
    grafted = plan(packed, [made.bundle(store, "a")])

    moved = engine.load(grafted, "new:1")
    assert docker.calls.count("load") == 2
    assert docker.names["new:1"] == grafted.image.digest
    assert docker.came == new_blobs(grafted) | {one.descriptor.digest for one in grafted.layers}
    assert moved.sent == moved.total


def test_an_image_that_the_engine_does_not_take_leaves_the_name_where_it_was(docker: Engine, store: Store) -> None:
    old = made.runtime(store)
    docker.holds("new:1", old)
    (docker.home / "full").touch()

    with pytest.raises(MachineError, match="no space left on device"):
        engine.load(plan(old, [made.bundle(store, "a")]), "new:1")
    assert docker.names == {"new:1": old[1].digest}


def test_a_layer_that_is_large_and_refused_at_once_ends_in_docker_s_words(docker: Engine, store: Store) -> None:
    (docker.home / "full").touch()
    large = made.bundle(store, "a", {"onnx/a": bytes(3 << 20), "y": b""})

    with pytest.raises(MachineError, match="docker load failed: no space left on device"):
        engine.load(plan(made.runtime(store), [large]), "new:1")


def test_a_layer_of_the_store_that_was_damaged_is_not_sent_as_good(docker: Engine, store: Store) -> None:
    a = made.bundle(store, "a", {"onnx/a": bytes(100_000), "y": b""})
    grafted = plan(made.runtime(store), [a])
    layer = next(one.descriptor for one in grafted.layers if one.descriptor.size > 100_000)
    os.truncate(store.path(layer), 1000)

    with pytest.raises((IntegrityError, UnknownNameError)):
        engine.load(grafted, "new:1")
    assert "new:1" not in docker.names


def test_an_engine_that_does_not_answer_is_named_with_what_to_do(docker: Engine, store: Store, tmp_path: Path) -> None:
    (docker.home / "down").touch()

    with pytest.raises(MachineError, match=r"engine\.sh start"):
        saved("runtime", tmp_path / "saved")
    with pytest.raises(MachineError):
        engine.load(plan(made.runtime(store), [made.bundle(store, "a")]), "new:1")


def test_without_a_docker_client_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MachineError, match="no docker client"):
        saved("runtime", tmp_path / "saved")


def test_an_image_comes_out_of_the_engine_whole(docker: Engine, store: Store, tmp_path: Path) -> None:
    runtime = made.runtime(store, [made.tar_of({"big": bytes(MOST_MANIFEST_BYTES + 1)})], packed=False, history=[])
    docker.holds("runtime", runtime)
    out = saved("runtime", tmp_path / "saved")

    assert out[1] == runtime[1].bare()
    assert made.unpacked(out) == made.unpacked(runtime)


def test_to_look_at_an_image_of_the_engine_its_large_layers_are_cut(
    docker: Engine, store: Store, tmp_path: Path
) -> None:
    large = made.bundle(store, "a", {"onnx/a": bytes(MOST_MANIFEST_BYTES), "y": b"1"})
    image = store, graft(made.runtime(store), [large], store, "x")[0].image
    docker.holds("image", image)
    heads = saved("image", tmp_path / "saved", heads=True)

    assert isinstance(heads[0], Store)
    assert sum(path.stat().st_size for path in heads[0].folder.rglob("*")) < MOST_MANIFEST_BYTES / 10
    b = made.bundle(store, "b")
    grafted = plan(heads, [b])
    assert grafted.image == plan(image, [b]).image
    engine.load(grafted, "new:1", {f"sha256:{path.name}" for path in (docker.home / "blobs").iterdir()})
    assert docker.names["new:1"] == grafted.image.digest
    assert len(docker.came) == 3 + 2


def test_an_unknown_image_of_the_engine_is_an_unknown_name(docker: Engine, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no image 'nonesuch:1'"):
        saved("nonesuch:1", tmp_path / "saved")


def test_an_archive_that_ends_early_is_an_error_in_docker_s_words(docker: Engine, store: Store, tmp_path: Path) -> None:
    docker.holds("runtime", made.runtime(store))
    (docker.home / "cut").touch()

    with pytest.raises(MachineError, match="docker save failed: unexpected EOF"):
        saved("runtime", tmp_path / "saved")


def test_platforms_that_the_engine_does_not_hold_are_left_out(docker: Engine, store: Store, tmp_path: Path) -> None:
    amd64, arm64 = made.runtime(store), made.runtime(store, [made.tar_of({"arm": b""})], made.ARM64, history=[])
    docker.holds("runtime", made.index(store, amd64, arm64))
    docker.lose(made.manifest_of(arm64).layers[0])
    out = saved("runtime", tmp_path / "saved")

    bundle = made.bundle(store, "a")
    assert plan(out, [bundle]).image == plan(amd64, [bundle]).image


def test_of_several_platforms_the_engine_gets_its_own(docker: Engine, store: Store) -> None:
    amd64, arm64 = made.runtime(store), made.runtime(store, [made.tar_of({"arm": b""})], made.ARM64, history=[])
    bundle = made.bundle(store, "a")
    engine.load(plan(made.index(store, amd64, arm64), [bundle]), "new:1")

    assert docker.names["new:1"] == plan(arm64, [bundle]).image.digest
    assert docker.came.isdisjoint(one.digest for one in made.manifest_of(amd64).layers)


def test_an_engine_of_none_of_the_platforms_is_told(docker: Engine, store: Store) -> None:
    others = [made.runtime(store, platform=made.Platform(name, "linux")) for name in ("amd64", "riscv64")]

    with pytest.raises(MachineError, match="linux/arm64, but the runtime is for linux/amd64, linux/riscv64"):
        engine.load(plan(made.index(store, *others), [made.bundle(store, "a")]), "new:1")


def test_an_archive_without_a_layout_asks_for_a_newer_docker(docker: Engine, store: Store, tmp_path: Path) -> None:
    client = tmp_path / "bin" / "docker"
    client.write_text(
        f"#!{sys.executable}\nimport sys, tarfile\ntarfile.open(fileobj=sys.stdout.buffer, mode='w|').close()\n"
    )

    with pytest.raises(MachineError, match="Docker 25 or newer"):
        saved("runtime", tmp_path / "saved")


@pytest.fixture
def project(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MODELBAKE_STORE", str(store.folder))
    monkeypatch.setenv("MODELBAKE_CACHE", str(tmp_path / "cache"))
    return store


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["graft", *arguments, "--json"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


def test_the_command_grafts_in_the_store_and_in_the_engine_alike(
    docker: Engine, project: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = made.runtime(project)
    with project.adding():
        project.tag("runtime:1", runtime[1])
    made.bundle(project, "a")
    made.bundle(project, "a", version="2.0.0")
    docker.holds("runtime:1", runtime)

    code, first = command(capsys, "store:runtime:1", "store:a:1.0.0", "-t", "store:new:1")
    assert (code, first["platforms"], first["bundles"]) == (0, ["linux/amd64"], {"a": "1.0.0"})
    assert project.resolve("new:1").digest == first["digest"]
    assert first["sent"] < first["size"]
    code, second = command(capsys, "docker:runtime:1", "store:a:1.0.0", "-t", "docker:new:1")
    assert (code, second["digest"]) == (0, first["digest"]) == (0, docker.names["new:1"])
    code, swapped = command(capsys, "docker:new:1", "store:a:2.0.0", "-t", "docker:new:2", "--replace", "a")
    assert (code, swapped["bundles"]) == (0, {"a": "2.0.0"})
    assert (
        command(capsys, "docker:new:2", "store:a:1.0.0", "-t", "store:back", "--replace", "a")[1]["digest"]
        == first["digest"]
    )
    assert project.verify()


def test_layers_that_the_engine_wants_again_are_read_whole_from_it(
    docker: Engine, project: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = made.runtime(project, [made.tar_of({"big": bytes(MOST_MANIFEST_BYTES + 1)})], packed=False, history=[])
    docker.holds("runtime:1", runtime)
    made.bundle(project, "a")
    (docker.home / "strict").touch()

    code, answer = command(capsys, "docker:runtime:1", "store:a:1.0.0", "-t", "docker:new:1")
    assert (code, docker.names["new:1"]) == (0, answer["digest"])
    assert docker.calls.count("save runtime:1") == 2
    assert answer["sent"] == answer["size"] > MOST_MANIFEST_BYTES


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["store:none", "store:a:1.0.0", "-t", "store:x"], 3, "has no 'none'"),
        (["docker:none", "store:a:1.0.0", "-t", "docker:x"], 3, "no image 'none'"),
        (["store:runtime", "store:runtime", "-t", "store:x"], 5, "holds no bundle"),
        (["store:runtime", "docker:runtime", "-t", "store:x"], 5, "docker:runtime: sha256:"),
        (["store:runtime", "store:a:1.0.0", "-t", "store:x", "--replace", "a"], 3, "to replace"),
        (
            ["store:runtime", "store:a:1.0.0", "-t", f"localhost:5000/x@sha256:{'0' * 64}"],
            2,
            "give the new image a tag",
        ),
        (["store:with-a", "store:a:1.0.0", "-t", "store:x"], 8, "--replace a"),
    ],
)
def test_the_command_s_errors(
    docker: Engine, project: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, word: str
) -> None:
    runtime = made.runtime(project)
    with project.adding():
        project.tag("runtime", runtime[1])
    docker.holds("runtime", runtime)
    graft(runtime, [made.bundle(project, "a")], project, "with-a")

    found, answer = command(capsys, *arguments)
    assert (found, answer["exit_code"]) == (code, code)
    assert word in answer["error"]
    assert "x" not in project.names()


def test_an_index_without_images_is_named(store: Store) -> None:
    data = encode(ImageIndex(2, (), IMAGE_INDEX))
    empty = store, made.put(store, ImageIndex(2, (), IMAGE_INDEX), [data])

    with pytest.raises(IntegrityError, match="leads to no image"):
        plan(empty, [made.bundle(store, "a")])

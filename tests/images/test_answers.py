"""What search answers in the sandbox, without network, rights or a writable file system, against the reference frameworks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from modelbake.bundle import ClipModel
from modelbake.catalog import Catalog
from modelbake.manifest import Manifest
from tests.images.engine import ROOT, SANDBOX, Done, image, must, run

TOLERANCE = 1e-5
CLIP = "clip-vit-b-32"
MINILM = "minilm-l6-v2"
TEXTS = ["a photo of a cat", "Zwölf Boxkämpfer — 12 %", "機械学習", "", "a very long caption that goes on " * 20]

Vectors = npt.NDArray[np.float64]
Sources = Callable[[str], Path]


def embed(bundle: str, *arguments: str, options: tuple[str, ...] = (), stdin: str | None = None) -> Vectors:
    """The embeddings that the search image gives in the sandbox, and nothing but a word on sample weights beside them."""
    done = run("search", "embed", "--bundle", bundle, *arguments, "--json", options=options, stdin=stdin)
    answer = done.json()
    said = [line for line in done.stderr.splitlines() if "SAMPLE WEIGHTS" not in line]
    assert said == []
    assert answer["bundle"] == bundle
    assert answer["dimensions"] == len(answer["embeddings"][0])
    return np.array(answer["embeddings"])


def flags(texts: list[str]) -> list[str]:
    return [word for text in texts for word in ("--text", text)]


@pytest.fixture(scope="module")
def sentence_model(sources: Sources) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(sources(MINILM)), device="cpu")


@pytest.fixture(scope="module")
def clip_model(sources: Sources) -> Any:
    import open_clip
    from safetensors.torch import load_file

    model = open_clip.create_model(architecture(), pretrained=None, device="cpu")
    model.load_state_dict(load_file(str(sources(CLIP) / "open_clip_model.safetensors")), strict=True)
    return model.eval()


def architecture() -> str:
    model = Catalog(ROOT / "bundles").get(CLIP).model
    assert isinstance(model, ClipModel)
    return model.architecture


@pytest.fixture(scope="module")
def pictures(folder: Path) -> dict[str, Path]:
    """Images as people have them: each mode that a decoder may hand out, in its usual format."""
    to = folder / "pictures"
    to.mkdir()
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:300, 0:420]
    waves = np.stack([np.sin(x / 17) * np.cos(y / 23), np.cos(x / 31), np.sin((x + y) / 13)], axis=-1)
    rgb = Image.fromarray((127 + 110 * waves + rng.normal(0, 5, waves.shape)).clip(0, 255).astype(np.uint8))
    alpha = Image.fromarray(((x * 7 + y) % 256).astype(np.uint8), "L")
    palette = rgb.quantize(64)
    made: dict[str, Callable[[Path], None]] = {
        "rgb.png": lambda path: rgb.save(path),
        "cmyk.jpg": lambda path: rgb.convert("CMYK").save(path, quality=90),
        "palette-transparent.png": lambda path: palette.save(path, transparency=3),
        "rgba.png": lambda path: rgb.convert("RGBA").save(path),
        "grey-alpha.png": lambda path: Image.merge("LA", [rgb.convert("L"), alpha]).save(path),
        "tall.webp": lambda path: rgb.crop((0, 0, 90, 300)).save(path, lossless=True),
        "tiny.gif": lambda path: rgb.resize((9, 5)).save(path),
    }
    for name, save in made.items():
        save(to / name)
        (to / name).chmod(0o644)
    to.chmod(0o755)
    return {name: to / name for name in made}


def test_minilm_embeds_hello_world_as_sentence_transformers_does(sentence_model: Any) -> None:
    (found,) = embed(MINILM, "--text", "hello world")

    assert found.shape == (384,)
    np.testing.assert_allclose(found, sentence_model.encode("hello world"), rtol=0, atol=TOLERANCE)


def test_minilm_embeds_many_texts_as_sentence_transformers_does(sentence_model: Any) -> None:
    found = embed(MINILM, *flags(TEXTS))

    np.testing.assert_allclose(found, sentence_model.encode(TEXTS), rtol=0, atol=TOLERANCE)


def test_texts_come_by_standard_input_one_a_line(sentence_model: Any) -> None:
    lines = ["hello world", "second line", "naïve café"]

    found = embed(MINILM, "--stdin", stdin="\n".join(lines) + "\n")

    np.testing.assert_allclose(found, sentence_model.encode(lines), rtol=0, atol=TOLERANCE)


def test_clip_embeds_texts_as_open_clip_does(clip_model: Any) -> None:
    import open_clip
    import torch

    found = embed(CLIP, *flags(TEXTS))

    with torch.inference_mode():
        expected = clip_model.encode_text(open_clip.get_tokenizer(architecture())(TEXTS), normalize=True).numpy()
    assert found.shape == (len(TEXTS), 512)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_clip_embeds_images_of_every_mode_as_open_clip_does(clip_model: Any, pictures: dict[str, Path]) -> None:
    import open_clip
    import torch

    mount = f"--volume={next(iter(pictures.values())).parent}:/in:ro"
    arguments = [word for name in pictures for word in ("--image", f"/in/{name}")]

    found = embed(CLIP, *arguments, options=(mount,))

    config = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip_model))
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(path)) for path in pictures.values()])
        expected = clip_model.encode_image(pixels, normalize=True).numpy()
    assert found.shape == (len(pictures), 512)
    for name, row, reference in zip(pictures, found, expected, strict=True):
        np.testing.assert_allclose(row, reference, rtol=0, atol=TOLERANCE, err_msg=name)


def test_verify_replays_every_artifact_of_the_manifest(manifest: Manifest) -> None:
    figures = run("search", "verify", "--json").json()

    assert {name: set(artifacts) for name, artifacts in figures.items()} == {
        entry.name: {artifact.path for artifact in entry.artifacts} for entry in manifest.bundles
    }
    found = {(name, path): one for name, artifacts in figures.items() for path, one in artifacts.items()}
    for (name, path), one in found.items():
        artifact = next(a for a in manifest.bundle(name).artifacts if a.path == path)
        if artifact.parity is not None:
            assert one["max_abs_diff"] <= one["gate"] == artifact.parity.gate
        else:
            assert artifact.quality is not None
            assert one["mean_cosine"] >= one["mean_cosine_gate"] == artifact.quality.mean_cosine_gate
            assert one["top10_overlap"] >= one["top10_overlap_gate"] == artifact.quality.top10_overlap_gate


def test_the_sandbox_has_no_network_and_no_writable_place() -> None:
    """The other tests here prove nothing unless this holds."""
    code = (
        "import os, socket, json\n"
        "def refused(action):\n"
        "    try: action()\n"
        "    except OSError as error: return error.strerror\n"
        "writable = [f for f in ('/tmp', '/', '/models', '/opt/venv', '/var/tmp') if not refused(lambda: open(f + '/x', 'w'))]\n"
        "reached = refused(lambda: socket.create_connection(('172.17.0.1', 53), 2)) is None\n"
        "print(json.dumps([writable, reached, os.getuid(), sorted(os.listdir('/sys/class/net'))]))\n"
    )
    writable, reached, uid, interfaces = json.loads(
        must("run", "--rm", *SANDBOX, "--entrypoint=python3", image("search"), "-c", code)
    )

    assert (writable, reached, uid) == ([], False, 65532)
    assert "eth0" not in interfaces


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["embed", "--bundle", "no-such-bundle", "--text", "x"], 3, "no-such-bundle"),
        (["verify", "no-such-bundle"], 3, "no-such-bundle"),
        (["embed", "--bundle", MINILM], 2, "--text"),
        (["embed", "--bundle", MINILM, "--image", "/models/model_manifest.json"], 2, MINILM),
        (["embed", "--bundle", CLIP, "--image", "/models/model_manifest.json"], 2, "not an image"),
        (["no-such-command"], 2, "no-such-command"),
        (["verify", "--models-dir", "/opt"], 7, "model_manifest.json"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_a_wrong_command_ends_with_its_exit_code_and_one_message(command: list[str], code: int, words: str) -> None:
    done = run("search", *command)

    assert (done.code, done.stdout) == (code, "")
    assert _one_message(done, words)


@pytest.mark.parametrize("damage", ["truncated", "other-bytes"])
def test_damaged_models_are_exit_code_5_and_name_the_file(folder: Path, manifest: Manifest, damage: str) -> None:
    """A file laid over one of the image's, as a broken disk or a bad mount would."""
    entry = manifest.bundle(MINILM)
    name = "model_manifest.json" if damage == "truncated" else entry.artifacts[0].tokenizer.path  # type: ignore[union-attr]
    bad = folder / damage
    bad.write_bytes(b'{"schema_version": 1, "bund' if damage == "truncated" else b"{}")
    bad.chmod(0o644)

    done = run("search", "verify", MINILM, options=(f"--volume={bad}:/models/{name}:ro",))

    assert done.code == 5
    assert _one_message(done, name)


def _one_message(done: Done, words: str) -> bool:
    lines = [line for line in done.stderr.splitlines() if "SAMPLE WEIGHTS" not in line]
    return lines[0].startswith("error: ") and words in done.stderr and "Traceback" not in done.stderr

"""Packages as files: their bytes, their interface, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modelbake.errors import IntegrityError, UsageError
from modelbake.export.coreml import encoders, package
from modelbake.export.coreml.convert import Input, convert
from tests.coreml import contents
from tests.unit.export import coreml_tiny

ONCE = """
import sys
from pathlib import Path
import torch
from modelbake.export._torchvision import declare_missing_ops
declare_missing_ops()
from modelbake.export.coreml import encoders, package, rewrite
from modelbake.export.coreml.calibrate import Calibration, word_salad
from modelbake.export.coreml.compress import measure, to_int8, to_palettes
from modelbake.export.coreml.convert import convert
from tests.coreml import contents
from tests.unit.export import coreml_tiny
folder = Path(sys.argv[1])
rewrite.SMALLEST = 1024
torch.set_num_threads(int(sys.argv[2]))
encoder = encoders.text_encoder(coreml_tiny.sentence_model(folder), (16, 32))
for precision in ("fp32", "fp16"):
    convert(encoder.module, encoder.inputs, encoder.output, folder / f"{precision}.mlpackage", precision)
image = encoders.clip_image_encoder(coreml_tiny.clip(), (0.5,) * 3, (0.2,) * 3)
convert(image.module, image.inputs, image.output, folder / "image.mlpackage")
to_int8(folder / "fp16.mlpackage", folder / "int8.mlpackage")
calibration = Calibration(encoder.module, word_salad(coreml_tiny.VOCABULARY, 1, 2, 3, count=24, length=16))
recipe = measure(folder / "fp16.mlpackage", calibration).recipe(5)
to_palettes(folder / "fp16.mlpackage", folder / "palettes.mlpackage", calibration, recipe)
print(*(contents.digest(folder / f"{name}.mlpackage") for name in ("fp32", "fp16", "image", "int8", "palettes")))
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environ = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
        done = subprocess.run(
            [sys.executable, "-c", ONCE, str(folder), seed], env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        digests.append(done.stdout.split()[-5:])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    encoder = encoders.text_encoder(coreml_tiny.sentence_model(folder), (16,))
    path = folder / "tiny.mlpackage"
    convert(encoder.module, encoder.inputs, encoder.output, path)
    return path


def copy(made: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, folder / made.name))


def test_coremltools_loads_the_package_and_finds_its_interface(made: Path) -> None:
    import coremltools as ct

    spec = ct.models.utils.load_spec(str(made))
    shown = {
        one.name: (one.type.multiArrayType.dataType, list(one.type.multiArrayType.shape))
        for one in [*spec.description.input, *spec.description.output]
    }
    int32, float32 = 131104, 65568
    assert shown == {
        "input_ids": (int32, [1, 16]),
        "attention_mask": (int32, [1, 16]),
        "embeddings": (float32, [1, coreml_tiny.DIMENSION]),
    }
    assert dict(spec.description.metadata.userDefined) == {
        "modelbake.coremltools": ct.__version__,
        "modelbake.torch": torch.__version__.partition("+")[0],
    }
    ct.models.MLModel(str(made), skip_model_load=True)


def test_the_manifest_names_what_is_there(made: Path) -> None:
    manifest = json.loads((made / "Manifest.json").read_text(encoding="utf-8"))
    paths = {identifier: entry["path"] for identifier, entry in manifest["itemInfoEntries"].items()}
    assert all((made / "Data" / path).exists() for path in paths.values())
    assert paths[manifest["rootModelIdentifier"]] == package.MODEL
    assert contents.size(made) == sum(path.stat().st_size for path in made.rglob("*") if path.is_file())


def test_another_weight_is_another_identifier(made: Path, tmp_path: Path) -> None:
    other = copy(made, tmp_path)
    weights = other / "Data" / package.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[200] ^= 1
    weights.write_bytes(bytes(data))
    again = tmp_path / "again.mlpackage"
    with package.reading(other) as (spec, reader):
        package.write(again, spec, lambda spec, writer: package.copy_weights(spec, reader, writer))
    one, two = (json.loads((path / "Manifest.json").read_text())["itemInfoEntries"].keys() for path in (made, again))
    assert len(one & two) == 1


def test_what_was_written_before_is_not_replaced(made: Path, tmp_path: Path) -> None:
    other = copy(made, tmp_path)
    (other / "stale").write_text("old")
    with package.reading(made) as (spec, reader), pytest.raises(FileExistsError):
        package.write(other, spec, lambda spec, writer: package.copy_weights(spec, reader, writer))
    assert (other / "stale").exists()


def test_a_write_that_fails_leaves_nothing(made: Path, tmp_path: Path) -> None:
    def fail(spec: Any, writer: Any) -> None:
        raise RuntimeError("no more")

    with package.reading(made) as (spec, _), pytest.raises(RuntimeError, match="no more"):
        package.write(tmp_path / "other.mlpackage", spec, fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [package.MODEL, package.WEIGHTS])
def test_a_package_that_is_not_whole_is_refused(made: Path, tmp_path: Path, name: str) -> None:
    other = copy(made, tmp_path)
    (other / "Data" / name).unlink()
    with pytest.raises(IntegrityError, match="the package is not whole"), package.reading(other):
        pass


def test_a_program_cut_short_is_refused(made: Path, tmp_path: Path) -> None:
    other = copy(made, tmp_path)
    program = other / "Data" / package.MODEL
    program.write_bytes(program.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="it is no Core ML model"), package.reading(other):
        pass


def test_a_model_of_another_kind_is_refused(made: Path, tmp_path: Path) -> None:
    other = copy(made, tmp_path)
    with package.reading(other) as (spec, _):
        spec.neuralNetwork.layers.add()
        (other / "Data" / package.MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(IntegrityError, match="a neuralNetwork, not an ML Program"), package.reading(other):
        pass


def test_lengths_of_two_inputs_need_ios_18(tmp_path: Path) -> None:
    shapes = ((1, 8), (1, 16))
    inputs = (Input("a", "float32", shapes), Input("b", "float32", shapes))
    with pytest.raises(UsageError, match="need iOS18, not iOS16"):
        convert(torch.nn.Identity(), inputs, "y", tmp_path / "x.mlpackage", target="iOS16")

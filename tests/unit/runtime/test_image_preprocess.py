"""Image preprocessing against open_clip's own eval transform, over modes, sizes and file formats."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from modelbake.errors import RefusedError, UsageError
from modelbake.export._torchvision import declare_missing_ops
from modelbake.manifest import ImagePreprocessing
from modelbake.runtime import image_preprocess
from modelbake.runtime.image_preprocess import MAX_PIXELS, preprocess, preprocess_file

SPEC = ImagePreprocessing(
    size=224,
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
TOLERANCE = 1e-6

Transform = Callable[[Image.Image], "np.ndarray"]

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"]


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Seeded noise over a gradient in any mode, with all bands (alpha and palette too) varied."""
    random = np.random.default_rng(seed)
    if mode in ("I", "F"):
        return Image.fromarray(
            random.uniform(-50, 400, (height, width)).astype(np.int32 if mode == "I" else np.float32)
        )
    if mode in ("I;16", "I;16B"):
        data = random.integers(0, 700, (height, width)).astype("<u2" if mode == "I;16" else ">u2")
        return Image.frombytes(mode, (width, height), data.tobytes())
    if mode == "1":
        return Image.fromarray(random.integers(0, 2, (height, width), dtype=np.uint8) * 255).convert("1")
    bands = len(Image.new(mode, (1, 1)).getbands())
    gradient = np.add.outer(np.arange(height), 2 * np.arange(width))[..., np.newaxis]
    noise = random.integers(0, 160, (height, width, bands))
    data = ((gradient + noise) % 256).astype(np.uint8)
    image = Image.frombytes(mode, (width, height), data.tobytes())
    if mode in ("P", "PA"):
        image.putpalette(random.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The image as a file of that format."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def transform_for() -> Callable[[ImagePreprocessing], Transform]:
    """Makes open_clip's eval transform for a spec."""
    declare_missing_ops()
    import open_clip

    def make(spec: ImagePreprocessing) -> Transform:
        values = msgspec.structs.asdict(spec)
        transform = open_clip.image_transform(values.pop("size"), is_train=False, resize_mode="shortest", **values)
        return lambda image: transform(image).numpy()

    return make


@pytest.fixture(scope="session")
def reference(transform_for: Callable[[ImagePreprocessing], Transform]) -> Transform:
    """open_clip's eval transform for SPEC."""
    return transform_for(SPEC)


def assert_equal(pixels: np.ndarray, expected: np.ndarray) -> None:
    """Same type and shape, and no pixel further off than TOLERANCE."""
    assert pixels.dtype == expected.dtype == np.float32
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=TOLERANCE)


def test_the_spec_is_the_one_of_open_clips_vit_b_32(reference: Transform) -> None:
    import open_clip
    from open_clip import transform as transforms

    pretrained = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    settings_of_model = transforms.merge_preprocess_dict(transforms.PreprocessCfg(), pretrained)
    transform = transforms.image_transform_v2(transforms.PreprocessCfg(**settings_of_model), is_train=False)
    image = picture(301, 240)

    np.testing.assert_array_equal(reference(image), transform(image).numpy())


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (224, 224), (100, 100), (224, 500), (500, 224)])
@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_get_open_clips_pixels(mode: str, size: tuple[int, int], reference: Transform) -> None:
    image = picture(*size, mode)
    assert image.mode == mode

    assert_equal(preprocess(image, SPEC), reference(image))


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 3), (3, 2), (1, 7), (7, 1), (223, 225), (225, 224), (224, 225), (449, 448)]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_tiny_and_nearly_fitting_images_get_open_clips_pixels(
    mode: str, size: tuple[int, int], reference: Transform
) -> None:
    image = picture(*size, mode)

    assert_equal(preprocess(image, SPEC), reference(image))


@pytest.mark.parametrize("size", [(5000, 10), (10, 5000), (3000, 224), (224, 3000)])
def test_extreme_aspects_get_open_clips_pixels(size: tuple[int, int], reference: Transform) -> None:
    image = picture(*size)

    assert_equal(preprocess(image, SPEC), reference(image))


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    mode=st.sampled_from(["RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "I;16"]),
    seed=st.integers(0, 2**32),
)
def test_random_sizes_get_open_clips_pixels(
    width: int, height: int, mode: str, seed: int, reference: Transform
) -> None:
    height, width = max(height, width // 40), max(width, height // 40)
    image = picture(width, height, mode, seed)

    assert_equal(preprocess(image, SPEC), reference(image))


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 97),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    mean=st.tuples(*[st.floats(0, 1)] * 3).map(lambda m: tuple(x + 0.01 for x in m)),
    std=st.tuples(*[st.floats(0.25, 1)] * 3),
)
def test_random_specs_get_open_clips_pixels(
    size: int,
    interpolation: Any,
    width: int,
    height: int,
    mean: Any,
    std: Any,
    transform_for: Callable[[ImagePreprocessing], Transform],
) -> None:
    spec = ImagePreprocessing(size=size, interpolation=interpolation, mean=mean, std=std)
    image = picture(width, height)

    assert_equal(preprocess(image, spec), transform_for(spec)(image))


def _files() -> dict[str, bytes]:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    frames = [picture(90, 60, "P", seed) for seed in range(3)]
    palette = picture(300, 200, "P")
    palette_alpha = bytes(range(256))
    return {
        "jpeg": encoded(picture(301, 203), "JPEG", quality=90),
        "progressive jpeg": encoded(picture(301, 203), "JPEG", progressive=True),
        "grey jpeg": encoded(picture(301, 203, "L"), "JPEG"),
        "cmyk jpeg": encoded(picture(301, 203, "CMYK"), "JPEG"),
        "exif-rotated jpeg": encoded(picture(301, 203), "JPEG", exif=orientation),
        "exif-rotated png": encoded(picture(301, 203), "PNG", exif=orientation),
        "exif-rotated tiff": encoded(picture(301, 203), "TIFF", exif=orientation),
        "exif-rotated webp": encoded(picture(301, 203), "WEBP", exif=orientation),
        "png": encoded(picture(301, 203), "PNG"),
        "png with alpha": encoded(picture(301, 203, "RGBA"), "PNG"),
        "grey png with alpha": encoded(picture(301, 203, "LA"), "PNG"),
        "16 bit grey png": encoded(picture(301, 203, "I;16"), "PNG"),
        "1 bit png": encoded(picture(301, 203, "1"), "PNG"),
        "palette png": encoded(palette, "PNG"),
        "palette png with one transparent colour": encoded(palette, "PNG", transparency=7),
        "palette png with an alpha for each colour": encoded(palette, "PNG", transparency=palette_alpha),
        "rgb png with a transparent colour": encoded(picture(301, 203), "PNG", transparency=(1, 2, 3)),
        "gif": encoded(palette, "GIF"),
        "gif with transparency": encoded(palette, "GIF", transparency=3),
        "animated gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40),
        "animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=40),
        "animated png": encoded(picture(90, 60), "PNG", save_all=True, append_images=[picture(90, 60, seed=1)]),
        "webp": encoded(picture(301, 203), "WEBP", lossless=True),
        "webp with alpha": encoded(picture(301, 203, "RGBA"), "WEBP"),
        "tiff": encoded(picture(301, 203), "TIFF", compression="tiff_lzw"),
        "16 bit tiff": encoded(picture(301, 203, "I;16"), "TIFF"),
        "float tiff": encoded(picture(301, 203, "F"), "TIFF"),
        "bmp": encoded(picture(301, 203), "BMP"),
        "ppm": encoded(picture(301, 203), "PPM"),
        "jpeg 2000": encoded(picture(301, 203), "JPEG2000"),
        "avif": encoded(picture(301, 203), "AVIF"),
        "several pictures in a jpeg": encoded(
            frames[0].convert("RGB"), "MPO", save_all=True, append_images=[picture(9, 9)]
        ),
    }


FILES = _files()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_files_get_the_pixels_of_open_clip_on_a_lazily_opened_image(
    data: bytes, reference: Transform, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)

    pixels = preprocess_file(path, SPEC)

    with Image.open(path) as image:
        assert_equal(pixels, reference(image))
    np.testing.assert_array_equal(preprocess_file(data, SPEC), pixels)


def test_a_rotated_jpeg_is_left_as_it_is_stored() -> None:
    data = FILES["exif-rotated jpeg"]
    with Image.open(io.BytesIO(data)) as stored:
        np.testing.assert_array_equal(preprocess_file(data, SPEC), preprocess(stored, SPEC))


def test_the_output_is_one_contiguous_block() -> None:
    assert preprocess(picture(301, 203), SPEC).flags.c_contiguous


def test_the_image_that_is_passed_stays_as_it_was() -> None:
    image = picture(301, 203)
    before = image.tobytes()

    preprocess(image, SPEC)

    assert (image.mode, image.size, image.tobytes()) == ("RGB", (301, 203), before)


def test_an_image_without_pixels_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no pixels"):
        preprocess(Image.new("RGB", (0, 5)), SPEC)


def test_a_mode_without_a_way_to_rgb_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="mode La cannot become RGB"):
        preprocess(Image.new("La", (300, 300)), SPEC)


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_an_image_too_long_to_be_resized_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RefusedError, match="too long for its width"):
        preprocess(Image.new("RGB", size), SPEC)


NOT_IMAGES = {
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(1000),
    "html": b"<html><body>not found</body></html>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "xbm": b"#define a_width 1\n#define a_height 1\nstatic char a_bits[] = {\n0x00};\n",
}


@pytest.mark.parametrize("data", NOT_IMAGES.values(), ids=NOT_IMAGES.keys())
def test_what_is_no_raster_image_is_a_usage_error_that_names_the_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)

    with pytest.raises(UsageError, match=r"picture\.png is not an image: give a file in one of the formats JPEG, PNG"):
        preprocess_file(path, SPEC)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "webp", "tiff", "bmp", "jpeg 2000", "avif", "palette png"])
def test_a_truncated_file_is_a_usage_error(name: str) -> None:
    data = FILES[name]

    with pytest.raises(UsageError, match="image"):
        preprocess_file(data[: len(data) // 2], SPEC)


def test_a_truncated_file_is_told_from_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(FILES["jpeg"][:3000])

    with pytest.raises(UsageError, match=r"half\.jpg cannot be decoded \(.*truncated.*give a whole image file"):
        preprocess_file(path, SPEC)


@pytest.mark.parametrize(("name", "reason"), [("missing.png", "No such file"), ("", "Is a directory")])
def test_a_path_that_cannot_be_opened_is_a_usage_error(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot be opened \\({reason}.*give the path of an image file"):
        preprocess_file(tmp_path / name, SPEC)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=8),
    cut=st.integers(0, 3000),
)
def test_damaged_files_give_pixels_or_one_of_our_errors(name: str, flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(FILES[name])
    for position, mask in flips:
        data[position % len(data)] ^= mask
    del data[len(data) - min(cut, len(data)) :]

    try:
        pixels = preprocess_file(bytes(data), SPEC)
    except (UsageError, RefusedError):
        return
    assert pixels.shape == (3, 224, 224)
    assert np.isfinite(pixels).all()


def _claims_to_be(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states that size."""
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9460, 14_000, 2**30])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))

    with pytest.raises(RefusedError, match=f"The image of .* bytes has more than {MAX_PIXELS} pixels"):
        preprocess_file(_claims_to_be(side, side), SPEC)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_where_warnings_are_errors() -> None:
    with pytest.raises(RefusedError, match="more than"):
        preprocess_file(_claims_to_be(9460, 9460), SPEC)


def test_memory_that_runs_out_is_not_called_a_damaged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)

    with pytest.raises(MemoryError):
        preprocess_file(FILES["bmp"], SPEC)


def test_normalisation_tables_are_kept_for_few_specs_only() -> None:
    for number in range(40):
        spec = ImagePreprocessing(size=4, interpolation="bicubic", mean=(number / 40, 0.5, 0.5), std=(1, 1, 1))
        preprocess(Image.new("RGB", (4, 4)), spec)

    assert image_preprocess._normalized.cache_info().currsize <= 16


def test_preprocessing_imports_no_torch() -> None:
    script = (
        "import sys; import modelbake.runtime.image_preprocess; "
        "print([m for m in ('torch', 'torchvision', 'open_clip') if m in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"

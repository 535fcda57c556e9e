"""CLIP's image preprocessing without torch or torchvision: the pixels that open_clip's eval transform gives.

The steps and their order are open_clip's (transform.py, image_transform with is_train=False, resize_mode "shortest"):
resize in the image's own mode, centre crop, RGB, scale to [0, 1], normalise. Like there, EXIF orientation is left to
Pillow (which applies it to TIFF alone) and only the first frame of an animation counts.
"""

from __future__ import annotations

import functools
import io
import os

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from modelbake.errors import RefusedError, UsageError
from modelbake.manifest import ImagePreprocessing

# Bound on an image's pixels, as stored and as resized: where Pillow starts to warn of decompression bombs.
MAX_PIXELS = 89_478_485

# Raster formats alone: Pillow would also hand EPS to Ghostscript. Those it loads at once come first, the others make
# it import all its plugins. JPEG stands for MPO too.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Modes that Pillow resizes as they are, columns first and then rows, with 8 bits between the passes.
_SEPARABLE_MODES = ("RGB", "L")


def preprocess(image: Image.Image, spec: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """The image encoder's input for an image of any mode: float32 [3, size, size], contiguous, channels R, G, B.

    Raises UsageError where the image has no pixels or its mode cannot become RGB, RefusedError where its sides differ
    so much that the resized image would pass MAX_PIXELS. A lazily opened file that is broken raises what Pillow raises:
    use preprocess_file for files that are not trusted.
    """
    size = spec.size
    width, height = _resized(image.size, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resampling = _RESAMPLING[spec.interpolation]
    if width > size and image.height != size and image.mode in _SEPARABLE_MODES:
        # Pillow's own two passes, but the second one only over the columns that are kept.
        strip = image.resize((width, image.height), resampling).crop((left, 0, left + size, image.height))
        image = strip.resize((size, size), resampling)
    else:
        if image.size != (width, height):
            image = image.resize((width, height), resampling)
        if (width, height) != (size, size):
            image = image.crop((left, top, left + size, top + size))
    return normalize(np.asarray(_rgb(image)).transpose(2, 0, 1), spec)


def normalize(pixels: npt.NDArray[np.uint8], spec: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """(x/255 - mean) / std of bytes [3, height, width], channels R, G, B: float32 of the same shape, contiguous."""
    table = _normalized(spec.mean, spec.std)
    output = np.empty(pixels.shape, dtype=np.float32)
    for channel in range(3):
        # "clip" spares the bounds check: a byte is always within the table.
        np.take(table[channel], pixels[channel], out=output[channel], mode="clip")
    return output


def denormalize(pixels: npt.NDArray[np.float32], spec: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """The bytes [3, height, width] that `normalize` made the pixels of."""
    mean, std = (np.array(values, np.float64)[:, np.newaxis, np.newaxis] for values in (spec.mean, spec.std))
    found: npt.NDArray[np.uint8] = np.rint((pixels * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return found


def preprocess_file(source: str | os.PathLike[str] | bytes, spec: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """preprocess() of an image file, given as its path or its bytes; the bytes may come from anywhere.

    Raises UsageError where the file cannot be opened, is no image in one of FORMATS, or is truncated or damaged;
    RefusedError where it has more than MAX_PIXELS pixels, before they are decoded.
    """
    with _open(source) as image:
        _load(image, _name(source))
        return preprocess(image, spec)


def _open(source: str | os.PathLike[str] | bytes) -> Image.Image:
    name = _name(source)
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{name} is not an image: give a file in one of the formats {', '.join(FORMATS)}") from error
    except MemoryError:
        raise
    except Exception as error:
        raise _broken(name, error) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(name)
    return image


def _load(image: Image.Image, name: str) -> None:
    try:
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name) from error
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders answer broken bytes with OSError, SyntaxError, ValueError, struct.error, IndexError, more.
        raise _broken(name, error) from error


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return f"The image of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def _broken(name: str, error: Exception) -> UsageError:
    if isinstance(error, OSError) and error.errno is not None:
        return UsageError(f"{name} cannot be opened ({error.strerror}): give the path of an image file")
    return UsageError(f"{name} cannot be decoded ({error}): it is truncated or damaged, give a whole image file")


def _too_large(name: str) -> RefusedError:
    return RefusedError(f"{name} has more than {MAX_PIXELS} pixels: scale it down first")


def _resized(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Width and height that bring the shorter side to `target`; the longer is cut to an integer, as in torchvision."""
    width, height = size
    if min(size) < 1:
        raise UsageError(f"The image has no pixels ({width}x{height}): give another image")
    longer = int(target * max(size) / min(size))
    if longer * target > MAX_PIXELS:
        raise RefusedError(
            f"The image is too long for its width ({width}x{height}): with its shorter side at {target} it would have "
            f"more than {MAX_PIXELS} pixels; crop it first"
        )
    return (target, longer) if width <= height else (longer, target)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise UsageError(f"An image of mode {image.mode} cannot become RGB ({error}): convert it first") from error


@functools.lru_cache(maxsize=16)
def _normalized(mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """What each byte becomes in each channel, float32 [3, 256]; torch's operations in torch's order."""
    columns = [np.array(values, dtype=np.float32)[:, np.newaxis] for values in (mean, std)]
    return (np.arange(256, dtype=np.float32) / np.float32(255) - columns[0]) / columns[1]

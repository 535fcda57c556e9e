"""open_clip models into two ONNX graphs, a text encoder and an image encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelbake import goldens
from modelbake.bundle import Bundle, ClipModel
from modelbake.errors import IntegrityError, RefusedError
from modelbake.export import clip_config
from modelbake.export.artifact import Draft, Export, export_onnx, tool_versions
from modelbake.export.clip_towers import image_tower, text_tower
from modelbake.export.ort_ops import CONTRIB_OPSETS
from modelbake.manifest import ImagePreprocessing, Role, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT_ROLE: Role = "text_encoder"
IMAGE_ROLE: Role = "image_encoder"

GOLDEN_TEXTS: dict[str, list[str]] = {
    "single": ["a photo of a cat"],
    "mixed": [
        "a diagram",
        "",
        "Don&#39;t &amp;amp; can't — naïve café 👩‍👩‍👧 №5",
        "十二 chats noirs\tsur\nun toit",
        "a very long caption that goes on " * 20,
    ],
}
# Height and width of the golden images: the model's own size, landscape, portrait, smaller than the model's.
GOLDEN_IMAGE_SIZES: dict[str, list[tuple[int, int]]] = {
    "single": [(224, 224)],
    "mixed": [(96, 320), (301, 200), (64, 64)],
}

EVALUATION_IMAGES = 24


def sample(bundle: Bundle, folder: Path, seed: int) -> None:
    """Write the bundle's true architecture with weights drawn from `seed` as `<model.weights>` into `folder`.

    No tensor is left constant: open_clip begins biases with 0 and gains with 1 or even 0, beside which an export could lose or
    mix up whole layers without any change in what the model gives.
    """
    import torch
    from safetensors.torch import save_file

    spec = clip_config.check(bundle)
    torch.manual_seed(seed)
    model = _create(spec)
    for name, tensor in model.state_dict().items():
        if tensor.numel() > 1 and torch.all(tensor == tensor.flatten()[0]):
            offset = name.endswith(("bias", "running_mean"))
            tensor.copy_(0.1 * torch.randn_like(tensor) if offset else 0.5 + torch.rand_like(tensor))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, str(folder / spec.weights))


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Export the weights in `sources` into `out`: both graphs, the tokenizer's merges, goldens.

    The text graph takes int64 `input_ids` [batch, sequence], any length up to the context's, each row holding its end-of-text
    token; the image graph takes float32 `pixel_values` [batch, 3, size, size]. Both give unit-length float32 embeddings.
    """
    spec = clip_config.check(bundle)
    model = load_reference(spec, sources)
    stem = f"clip_{spec.model.replace('/', '_')}"
    tokenizer_path = Path("tokenizers") / stem / "merges.txt"
    golden = Path("goldens") / f"{bundle.name}.npz"
    write_tokenizer(out / tokenizer_path)

    import open_clip
    import torch

    preprocessing = preprocessing_of(model)
    tools = tool_versions("torch", "onnx", "open_clip_torch")
    dimension = int(open_clip.get_model_config(spec.architecture)["embed_dim"])
    ids = torch.zeros(2, 7, dtype=torch.int64)
    ids[:, 0], ids[:, 1:5], ids[:, 5] = 49406, 320, 49407
    pixels = torch.zeros(2, 3, preprocessing.size, preprocessing.size)

    text_graph, image_graph = Path("onnx") / f"{stem}_text_encoder.onnx", Path("onnx") / f"{stem}_image_encoder.onnx"
    text_in, text_out, text_data = export_onnx(
        text_tower(model),
        {"input_ids": ids},
        ["text_embedding"],
        {"input_ids": {0: "batch", 1: "sequence"}, "text_embedding": {0: "batch"}},
        out / text_graph,
        custom_opsets=CONTRIB_OPSETS,
    )
    image_in, image_out, image_data = export_onnx(
        image_tower(model),
        {"pixel_values": pixels},
        ["image_embedding"],
        {"pixel_values": {0: "batch"}, "image_embedding": {0: "batch"}},
        out / image_graph,
        custom_opsets=CONTRIB_OPSETS,
    )
    goldens.write(out / golden, golden_cases(model, spec))
    text = Draft(
        path=text_graph.as_posix(),
        role=TEXT_ROLE,
        inputs=text_in,
        outputs=text_out,
        tools=tools,
        external_data=tuple((text_graph.parent / name).as_posix() for name in text_data),
        embedding_dimension=dimension,
        normalized=True,
        tokenizer=Tokenizer("clip-merges", tokenizer_path.as_posix(), int(model.context_length)),
    )
    image = Draft(
        path=image_graph.as_posix(),
        role=IMAGE_ROLE,
        inputs=image_in,
        outputs=image_out,
        tools=tools,
        external_data=tuple((image_graph.parent / name).as_posix() for name in image_data),
        embedding_dimension=dimension,
        normalized=True,
        preprocessing=preprocessing,
    )
    return Export((text, image), golden.as_posix(), (tokenizer_path.as_posix(),))


def _create(spec: ClipModel) -> Any:
    import open_clip

    # open_clip warns through the root logger that the model is random, which is what is wanted here.
    previous = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        return open_clip.create_model(
            spec.architecture, pretrained=None, device="cpu", force_preprocess_cfg=clip_config.preprocessing(spec)
        )
    finally:
        logging.root.setLevel(previous)


def load_reference(spec: ClipModel, sources: Path) -> Any:
    """open_clip's model of that configuration with the weights in `sources`, in eval mode."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = sources / spec.weights
    if path.suffix != ".safetensors":
        raise RefusedError(
            f"{path}: weights are read from safetensors only, since other formats can carry code. Name a safetensors file."
        )
    model = _create(spec)
    try:
        model.load_state_dict(load_file(str(path)), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise IntegrityError(f"{path}: these are not the weights of {spec.architecture}: {str(error)[:400]}") from error
    return model.eval()


def preprocessing_of(model: Any) -> ImagePreprocessing:
    """What the model wants done to an image; IntegrityError where the runtime knows no such preprocessing."""
    import open_clip

    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"][0] if isinstance(config["size"], tuple | list) else config["size"]
    if config.get("resize_mode", "shortest") != "shortest":
        raise IntegrityError(f"The model wants resize_mode {config['resize_mode']!r}; this modelbake knows 'shortest'.")
    return ImagePreprocessing(int(size), config["interpolation"], tuple(config["mean"]), tuple(config["std"]))


def write_tokenizer(path: Path) -> None:
    """CLIP's merges, as open_clip carries them, in the runtime's form."""
    import open_clip

    from modelbake.runtime.clip_tokenizer import write_tokenizer_file

    path.parent.mkdir(parents=True, exist_ok=True)
    write_tokenizer_file(Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz"), path)


def golden_image(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A seeded image, uint8 [height, width, 3]: smooth colour waves with a little noise, so that resizing has work to do."""
    import numpy as np

    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x * fx + phase) * np.cos(y * fy - phase) for fx, fy, phase in generator.uniform(0.01, 0.3, (3, 3))]
    image = 127.5 + 100 * np.stack(waves, axis=-1) + generator.normal(0, 8, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def golden_cases(model: Any, spec: ClipModel) -> list[goldens.Case]:
    """What the model gives for the golden texts and images, in double precision, which the model then has."""
    import numpy as np
    import open_clip
    import torch
    from PIL import Image

    tokenizer = open_clip.get_tokenizer(spec.architecture)
    config = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    double = model.double()
    cases = []
    with torch.inference_mode():
        for name, texts in GOLDEN_TEXTS.items():
            ids = tokenizer(texts)
            embedding = {"text_embedding": double.encode_text(ids, normalize=True).numpy()}
            outputs = goldens.as_float32(embedding)
            cases.append(goldens.Case(TEXT_ROLE, name, {"input_ids": ids.numpy()}, outputs, {"text": np.array(texts)}))
            cut = ids[:, : int(ids.argmax(dim=-1).max()) + 1]
            cases.append(goldens.Case(TEXT_ROLE, f"{name}-cut", {"input_ids": cut.numpy()}, outputs))
        for name, sizes in GOLDEN_IMAGE_SIZES.items():
            images = [golden_image(*size, seed=index) for index, size in enumerate(sizes)]
            pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
            embedding = {"image_embedding": double.encode_image(pixels.double(), normalize=True).numpy()}
            raw: goldens.Arrays = {f"image.{index}": image for index, image in enumerate(images)}
            cases.append(
                goldens.Case(IMAGE_ROLE, name, {"pixel_values": pixels.numpy()}, goldens.as_float32(embedding), raw)
            )
        cases.append(_evaluation_case(double, transform))
    return cases


def _evaluation_case(double: Any, transform: Any) -> goldens.Case:
    """Seeded images to measure the image encoder's variants on. They are no photographs."""
    import numpy as np
    from PIL import Image

    images = [
        golden_image(60 + 9 * (seed % 4), 96 - 7 * (seed % 5), seed=1000 + seed) for seed in range(EVALUATION_IMAGES)
    ]
    parts = [
        double.encode_image(transform(Image.fromarray(image))[None].double(), normalize=True).numpy()
        for image in images
    ]
    outputs = goldens.as_float32({"image_embedding": np.concatenate(parts)})
    raw: goldens.Arrays = {f"image.{index}": image for index, image in enumerate(images)}
    return goldens.Case(IMAGE_ROLE, goldens.EVALUATION, {}, outputs, raw)

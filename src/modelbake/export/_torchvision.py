"""Makes torchvision importable where its compiled operators cannot be loaded, as beside a CPU build of torch."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

# torchvision attaches fake kernels to exactly these two at import, whether or not its extension was loaded, and dies
# with "operator torchvision::nms does not exist". Schemas as in torchvision/csrc/ops/nms.cpp and quantized/.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# Declarations vanish with the library object that made them.
_declarations: list[Any] = []


@functools.cache
def declare_missing_ops() -> bool:
    """Declare the operators that `import torchvision` expects, unless its own extension provides them.

    Call it before the first import of torchvision, open_clip, timm or sentence_transformers. torchvision's transforms
    then work; its detection operators still do not. Returns True where the declarations were needed, False where
    torchvision is not installed or fits torch. Calls after the first change nothing.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    import torch

    load_library: Any = torch.ops.load_library
    new_library: Any = torch.library.Library
    # The same attempt as torchvision/extension.py makes: declaring what a working extension defines is an error.
    for extension in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            load_library(str(extension))
        except OSError:
            continue
        return False
    library = new_library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _declarations.append(library)
    return True

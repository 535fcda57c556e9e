"""Every patch of coremltools that conversion needs, each with its issue, undone when conversion is done.

tests/unit/export/test_coreml_patches.py fails once a patch is no longer needed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def scalar_casts() -> Iterator[None]:
    """Constants of one element under `int` and `bool`: numpy ≥ 2.4 no longer makes numbers of arrays of a rank above 0.

    apple/coremltools #2633 (mended upstream by #2632). The frontend's own `_cast` calls int(array of shape [1]).
    """
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.frontend.torch import ops

    original = ops._cast

    def cast(context: Any, node: Any, dtype: Any, dtype_name: str) -> None:
        value = context[node.inputs[0]].val
        if value is not None and getattr(value, "shape", ()) != () and value.size == 1:
            context.add(mb.const(val=dtype(value.item()), name=node.name), node.name)
        else:
            original(context, node, dtype, dtype_name)

    ops._cast = cast
    try:
        yield
    finally:
        ops._cast = original


@contextmanager
def no_bars() -> Iterator[None]:
    """No progress bars: the modules bind tqdm when they are imported, and nothing turns it off. No issue tells of it."""
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.mil.passes import pass_pipeline

    bars = ops._tqdm, pass_pipeline.tqdm
    ops._tqdm = pass_pipeline.tqdm = lambda iterable, **_: iterable
    try:
        yield
    finally:
        ops._tqdm, pass_pipeline.tqdm = bars


@contextmanager
def quiet() -> Iterator[None]:
    """coremltools, its import first of all, says much that is no news: versions it was not tested with, parts that only macOS has.

    No issue tells of that either.
    """
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # A pass looks for the range of float32 within float16's.
            warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def applied() -> Iterator[None]:
    """All of them."""
    with scalar_casts(), no_bars():
        yield

"""Compressed constants made whole as coremltools makes them: op by op, and whole models against its decompress_weights."""

# ruff: noqa: E731

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools import optimize
from coremltools.converters.mil.mil import types
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake.coreml.dtypes import DTYPES, unpack
from modelbake.coreml.ops import OPS
from modelbake.coreml.runner import Runner
from tests import coreml_packages
from tests.unit.coreml.programs import IOS16, IOS18, Array, evaluated, inferred

RANDOM = np.random.default_rng(7)
FEW = {bits: getattr(types, f"np_uint{bits}_dtype") for bits in (1, 2, 3, 4, 6)} | {8: np.dtype(np.uint8)}
INT4 = types.np_int4_dtype


def floats(*shape: int, dtype: Any = np.float32) -> Array:
    return RANDOM.normal(size=shape).astype(dtype)


def whole(*shape: int, low: int, high: int, dtype: Any) -> Array:
    return RANDOM.integers(low, high, shape).astype(dtype)


def sparse(shape: tuple[int, ...], values: Array | None = None) -> tuple[Array, Array]:
    mask = RANDOM.integers(0, 2, shape).astype(np.uint8)
    count = int(mask.sum())
    return mask, floats(count) if values is None else values[:count]


def affine(dtype: Any, vector: bool, axis: int, zero: Any = None) -> Callable[..., Any]:
    low, high = (-128, 128) if dtype == np.int8 else (0, 256)
    data = whole(6, 4, low=low, high=high, dtype=dtype)
    size = (data.shape[axis],) if vector else ()
    points = whole(*size, low=low, high=high, dtype=zero or dtype)
    scale = np.abs(floats(*size)).astype(np.float32)
    points, scale = (points, scale) if vector else (points[()], scale[()])
    return lambda mb: mb.constexpr_affine_dequantize(
        quantized_data=data, zero_point=points, scale=scale, axis=np.int32(axis)
    )


def lut(
    bits: int,
    shape: tuple[int, ...],
    groups: tuple[int, ...],
    vector: int = 1,
    axis: int | None = None,
    dtype: Any = np.float32,
) -> Callable[..., Any]:
    indices = whole(*shape, low=0, high=1 << bits, dtype=FEW[bits])
    table = floats(*groups, 1 << bits, vector, dtype=dtype)
    more = {} if axis is None else {"vector_axis": np.int32(axis)}
    return lambda mb: mb.constexpr_lut_to_dense(indices=indices, lut=table, **more)


def old_lut(bits: int, shape: tuple[int, ...]) -> Callable[..., Any]:
    packed = whole((int(np.prod(shape)) * bits + 7) // 8, low=0, high=256, dtype=np.uint8)
    table = floats(1 << bits)
    return lambda mb: mb.constexpr_lut_to_dense(indices=packed, lut=table, shape=np.uint32(shape))


def old_sparse(shape: tuple[int, ...]) -> Callable[..., Any]:
    mask, data = sparse((int(np.prod(shape)),))
    packed = np.packbits(mask, bitorder="little")
    return lambda mb: mb.constexpr_sparse_to_dense(nonzero_data=data, mask=packed, shape=np.uint32(shape))


def blockwise(dtype: Any, low: int, high: int, blocks: tuple[int, ...], offset: Any = None) -> Callable[..., Any]:
    data = whole(6, 8, low=low, high=high, dtype=dtype)
    scale = np.abs(floats(*blocks))
    more: dict[str, Any] = {}
    if offset is not None:
        more["offset"] = floats(*blocks) if offset is np.float32 else whole(*blocks, low=low, high=high, dtype=offset)
    return lambda mb: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **more)


def sparse_dense(shape: tuple[int, ...]) -> Callable[..., Any]:
    mask, data = sparse(shape)
    return lambda mb: mb.constexpr_sparse_to_dense(nonzero_data=data, mask=mask.astype(FEW[1]))


def sparse_lut(bits: int, vector: int, axis: int | None) -> Callable[..., Any]:
    mask, _ = sparse((4, 6))
    indices = whole(int(mask.sum()), low=0, high=1 << bits, dtype=FEW[bits])
    table = floats(1, 1, 1 << bits, vector)
    more = {} if axis is None else {"vector_axis": np.int32(axis)}

    def build(mb: Any) -> Any:
        present, data = mb.constexpr_lut_to_sparse(
            indices_mask=mask.astype(FEW[1]), indices_nonzero_data=indices, lut=table, **more
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=data, mask=present)

    return build


def sparse_blockwise() -> Callable[..., Any]:
    mask, _ = sparse((4, 6))
    data = whole(int(mask.sum()), low=-128, high=128, dtype=np.int8)
    scale, offset = np.abs(floats(4, 2)), whole(4, 2, low=-9, high=9, dtype=np.int8)

    def build(mb: Any) -> Any:
        present, numbers = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask.astype(FEW[1]), nonzero_data=data, scale=scale, offset=offset
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=numbers, mask=present)

    return build


def table_of_integers() -> Callable[..., Any]:
    indices = whole(4, 6, low=0, high=16, dtype=FEW[4])
    table = whole(1, 1, 16, 1, low=-128, high=128, dtype=np.int8)
    scale = np.abs(floats(4, 1))

    def build(mb: Any) -> Any:
        return mb.constexpr_blockwise_shift_scale(
            data=mb.constexpr_lut_to_dense(indices=indices, lut=table), scale=scale
        )

    return build


CASES: dict[str, tuple[Callable[..., Any], int]] = {
    **{
        f"affine-{dtype.__name__}-{vector}-{axis}": (affine(dtype, vector, axis), IOS16)
        for dtype in (np.int8, np.uint8)
        for vector in (False, True)
        for axis in (0, 1, -1)
    },
    "affine-float-zero": (affine(np.int8, True, 0, np.float32), IOS16),
    **{f"old-lut-{bits}": (old_lut(bits, (5, 3)), IOS16) for bits in (1, 2, 4, 6, 8)},
    **{f"lut-{bits}": (lut(bits, (4, 6), (1, 1)), IOS18) for bits in FEW},
    "lut-groups-rows": (lut(4, (4, 6), (2, 1)), IOS18),
    "lut-groups-columns": (lut(3, (4, 6), (1, 3)), IOS18),
    "lut-groups-both": (lut(2, (4, 6), (4, 2)), IOS18),
    "lut-groups-of-four-axes": (lut(2, (4, 6, 1, 2), (2, 3, 1, 1)), IOS18),
    "lut-vectors-0": (lut(4, (4, 6), (1, 1), 2, 0), IOS18),
    "lut-vectors-1": (lut(4, (4, 6), (2, 1), 3, 1), IOS18),
    "lut-vectors-last": (lut(2, (4, 6), (1, 2), 4, -1), IOS18),
    "blockwise-int4": (blockwise(INT4, -8, 8, (6, 4)), IOS18),
    "blockwise-uint4": (blockwise(FEW[4], 0, 16, (3, 2), FEW[4]), IOS18),
    "blockwise-int8": (blockwise(np.int8, -128, 128, (6, 1), np.int8), IOS18),
    "blockwise-uint8": (blockwise(np.uint8, 0, 256, (1, 8), np.float32), IOS18),
    "old-sparse": (old_sparse((5, 3)), IOS16),
    "sparse": (sparse_dense((5, 3)), IOS18),
    "sparse-lut": (sparse_lut(2, 1, None), IOS18),
    "sparse-lut-vectors": (sparse_lut(1, 2, 0), IOS18),
    "sparse-blockwise": (sparse_blockwise(), IOS18),
    "lut-of-integers-scaled": (table_of_integers(), IOS18),
    "cast": (
        lambda mb: mb.constexpr_cast(source_val=np.arange(12).reshape(3, 4).astype(np.float16), output_dtype="fp32"),
        IOS16,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_compressed_constant_is_made_whole(name: str, tmp_path: Path) -> None:
    build, version = CASES[name]
    (wanted,) = inferred(build, {}, version)
    # Taken by an operation that changes nothing, since a program of constants alone is none.
    (found,) = evaluated(
        lambda mb, x: mb.add(x=x, y=build(mb)), {"x": np.zeros((1,) * wanted.ndim, np.float32)}, tmp_path, version
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_no_decompressor_is_without_a_case(tmp_path: Path) -> None:
    from tests.unit.coreml.programs import protobuf

    used = set()
    for index, (build, version) in enumerate(CASES.values()):
        message = protobuf(
            lambda mb, x, b=build: mb.add(x=x, y=b(mb)), {"x": np.zeros(1, np.float32)}, tmp_path / str(index), version
        )
        for block in message.functions["main"].block_specializations.values():
            used |= {operation.type for operation in block.operations}
    assert {name for name in OPS if name.startswith("constexpr_")} <= used


@given(st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 70), st.randoms(use_true_random=False))
def test_few_bits_are_unpacked_as_coremltools_packs_them(bits: int, count: int, random: Any) -> None:
    from coremltools.optimize import _utils

    numbers = np.array([random.randrange(1 << bits) for _ in range(count)], np.uint8)
    packed = _utils.pack_elements_into_bits(numbers, bits)
    assert np.array_equal(unpack(packed, DTYPES[f"uint{bits}"], count), numbers)


@given(st.integers(1, 30), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_signed_numbers_of_four_bits_keep_their_sign(count: int, random: Any) -> None:
    numbers = np.array([random.randrange(-8, 8) for _ in range(count)], np.int8)
    raw = np.append(numbers & 15, [0] * (count % 2)).astype(np.uint8)
    packed = raw[::2] | (raw[1::2] << 4)
    assert np.array_equal(unpack(packed, DTYPES["int4"], count), numbers)


def configurations() -> dict[str, Callable[[Any], Any]]:
    """What coremltools makes smaller models by."""
    c = optimize.coreml
    linear = lambda **o: (
        lambda model: c.linear_quantize_weights(
            model, c.OptimizationConfig(c.OpLinearQuantizerConfig(weight_threshold=64, **o))
        )
    )
    palette = lambda **o: (
        lambda model: c.palettize_weights(
            model, c.OptimizationConfig(c.OpPalettizerConfig(mode="kmeans", weight_threshold=64, **o))
        )
    )
    return {
        "int8": linear(mode="linear_symmetric"),
        "int8-linear": linear(mode="linear"),
        "uint8-tensor": linear(mode="linear", dtype="uint8", granularity="per_tensor"),
        "int4-block": linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8),
        "palette-4": palette(nbits=4),
        "palette-3-grouped": palette(nbits=3, granularity="per_grouped_channel", group_size=4),
        "palette-2-vectors": palette(nbits=2, cluster_dim=2),
        "palette-6-scaled": palette(nbits=6, enable_per_channel_scale=True),
        "sparse": lambda m: c.prune_weights(
            m, c.OptimizationConfig(c.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=64))
        ),
    }


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    bert = coreml_packages.tiny_bert(1)
    return {precision: coreml_packages.sentence_package(bert, 16, precision) for precision in ("fp32", "fp16")}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", configurations())
def test_a_compressed_model_runs_as_coremltools_decompresses_it(
    name: str, precision: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    small = configurations()[name](tiny[precision])
    small.save(str(tmp_path / "small.mlpackage"))
    optimize.coreml.decompress_weights(small).save(str(tmp_path / "large.mlpackage"))
    ids = np.random.default_rng(3).integers(0, 100, (1, 16)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": (np.arange(16) < 12).astype(np.int32)[None]}
    runners = [Runner(tmp_path / f"{one}.mlpackage") for one in ("small", "large")]
    kinds = [{one.type for one in runner._evaluator._function.operations} for runner in runners]
    assert any(kind.startswith("constexpr_") for kind in kinds[0])
    assert not any(kind.startswith("constexpr_") for kind in kinds[1])
    found, wanted = (runner.run(inputs)["embeddings"] for runner in runners)
    # Of float16, coremltools rounds what is decompressed in its own order: a last digit.
    np.testing.assert_allclose(found, wanted, atol=1e-6 if precision == "fp32" else 2e-3)

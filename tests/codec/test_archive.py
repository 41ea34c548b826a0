"""Round trips, and the exact bytes of version 1."""

from __future__ import annotations

import hashlib
import io

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lissom.codec import Quantized, Reader, Table, Uniform, decode, encode, trellis, write
from lissom.codec.directory import CHUNK
from lissom.codec.dtypes import dtype_named
from lissom.codec.lossy import rate_distortion_levels
from lissom.errors import CorruptArchive, InputRefused, UsageError

EFFORTS = ("fast", "best")
relaxed = settings(deadline=None, derandomize=True, max_examples=40)


def same(before, after):
    if isinstance(before, Quantized):
        assert type(after.decoding) is type(before.decoding)
        assert after.dtype == before.dtype
        kept = before.mask if before.mask is not None else np.ones(before.shape, bool)
        assert (after.levels[kept] == before.levels[kept]).all()
        assert after.dense().tobytes() == before.dense().tobytes()
    else:
        before = np.asarray(before)
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        assert after.tobytes() == before.tobytes()


def round_trip(tensors, effort="best", **options):
    data = encode(tensors, effort=effort, **options)
    archive = decode(data)
    assert list(archive.tensors) == list(tensors)
    for name, tensor in tensors.items():
        same(tensor, archive.tensors[name])
    return data, archive


DTYPES = [
    "float32",
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
    "complex64",
]


@relaxed
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(EFFORTS))
def test_any_array_comes_back_bit_by_bit(data, dtype, effort):
    array = data.draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)))
    round_trip({"a": array}, effort)


@relaxed
@given(arrays.arrays("uint32", st.integers(0, 60)), st.sampled_from(EFFORTS))
def test_any_bit_pattern_is_kept_nan_payloads_and_negative_zeros_included(bits, effort):
    round_trip({"a": bits.view(np.float32), "b": bits.view(ml_dtypes.bfloat16), "c": bits.view(np.float16)}, effort)


@relaxed
@given(st.data(), st.sampled_from(EFFORTS), st.booleans(), st.booleans())
def test_any_levels_come_back(data, effort, table, masked):
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    values = data.draw(arrays.arrays("float32", st.integers(1, 9)))
    levels = data.draw(arrays.arrays("int32", shape, elements=st.integers(0, len(values) - 1) if table else None))
    mask = data.draw(arrays.arrays(bool, shape)) if masked else None
    decoding = Table(values) if table else Uniform(np.array(np.float32(0.5)), np.array(3, np.int32))
    with np.errstate(over="ignore"):
        round_trip({"q": Quantized(levels, decoding, mask), "again": Quantized(levels, decoding, mask)}, effort)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_large_floats_and_levels_take_the_fast_paths_and_come_back(effort, dtype):
    random = np.random.default_rng(0)
    weights = random.normal(0, 0.05, (130, 257)).astype(getattr(ml_dtypes, dtype, dtype))
    narrow = random.integers(-100, 100, (96, 80)).astype(np.int32)
    wide = random.integers(-30000, 30000, (96, 80)).astype(np.int32)
    uniform = Uniform(random.random((96, 1)).astype(np.float32), random.integers(-3, 3, (96, 1)).astype(np.int32))
    round_trip({"w": weights, "narrow": Quantized(narrow, uniform), "wide": Quantized(wide, uniform)}, effort)


@pytest.mark.parametrize("effort", EFFORTS)
def test_scales_per_channel_and_per_group_come_back(effort):
    levels = np.arange(6 * 8, dtype=np.int32).reshape(6, 8) % 7
    for shape in [(), (6, 1), (1, 8), (6, 3), (1, 1)]:
        scale = np.linspace(0.1, 1, int(np.prod(shape))).astype(np.float32).reshape(shape)
        round_trip({"q": Quantized(levels, Uniform(scale, np.ones(shape, np.int32)), dtype="float16")}, effort)


@pytest.mark.parametrize("effort", EFFORTS)
def test_levels_on_a_trellis_come_back_and_cost_less_at_equal_error(effort):
    weights = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
    on_trellis = rate_distortion_levels(weights, 0.2)
    assert on_trellis.trellis
    data, archive = round_trip({"w": on_trellis}, effort)
    assert archive.tensors["w"].trellis == 64
    plain = Quantized(
        np.round(weights / np.float32(0.2)).astype(np.int32), Uniform(np.array(np.float32(0.2)), np.array(0, np.int32))
    )
    errors = [float(((q.dense() - weights) ** 2).mean()) for q in (on_trellis, plain)]
    bits = 8 * (len(data) - len(encode({"w": plain}, effort=effort))) / weights.size
    assert bits - 0.5 * np.log2(errors[1] / errors[0]) < -0.15
    with pytest.raises(InputRefused, match="leave the trellis"):
        encode({"w": Quantized(plain.levels, plain.decoding, trellis=8)})


def test_dtypes_that_numpy_lacks_come_back():
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "int4", "uint4"):
        round_trip({"a": (np.random.default_rng(0).normal(size=(9, 5)) * 2).astype(getattr(ml_dtypes, name))})


def test_a_dtype_that_nothing_installed_knows_is_named():
    with pytest.raises(CorruptArchive, match="names the dtype float3_e1m1, which this version does not know"):
        dtype_named("float3_e1m1")


def test_a_tensor_larger_than_a_chunk_is_cut_and_one_tensor_is_read_alone():
    rows = np.zeros((3, CHUNK // 2), np.int8)
    rows[2, -1] = 7
    line = np.zeros(2 * CHUNK + 5, np.int8)
    line[[0, -1]] = 1, 2
    data, _ = round_trip({"rows": rows, "line": line, "small": np.arange(3)}, "fast")
    reader = Reader(data)
    assert len(reader.directory.lengths) == 2 + 3 + 1
    for name, tensor in {"small": np.arange(3), "line": line, "rows": rows}.items():
        same(tensor, reader[name])
    with pytest.raises(KeyError):
        reader["absent"]
    broken = bytearray(data)
    broken[10] ^= 1  # in the block of the first rows, which reading the others does not touch
    reader = Reader(bytes(broken))
    same(line, reader["line"])
    with pytest.raises(CorruptArchive, match="block 0 does not match"):
        reader["rows"]


def test_bytes_do_not_depend_on_threads():
    tensors = {str(n): np.random.default_rng(n).integers(-9, 9, (1024, 700)).astype(np.int8) for n in range(4)}
    assert len({encode(tensors, effort="fast", threads=n) for n in (1, 2, 5)}) == 1


class Counted(io.RawIOBase):
    """A file that cannot seek, and remembers its longest write."""

    def __init__(self):
        self.parts = []

    def write(self, data):
        self.parts.append(bytes(data))
        return len(data)


@pytest.mark.parametrize("network", [None, b"graph"])
def test_a_written_file_holds_what_encode_gives_and_is_written_block_by_block(network):
    noise = np.random.default_rng(0).integers(-128, 128, (5, CHUNK), dtype=np.int8)
    file = Counted()
    write(file, {"noise": noise, "one": np.ones(3)}, network=network, effort="fast")
    assert b"".join(file.parts) == encode({"noise": noise, "one": np.ones(3)}, network=network, effort="fast")
    assert max(map(len, file.parts)) < 1.1 * CHUNK


def test_network_and_metadata_come_back():
    network = b"a graph " * 1000 + bytes(range(256))
    data, archive = round_trip({"a": np.ones(3)}, network=network, metadata={"made": "été", "": "x"})
    assert archive.network == network
    assert archive.metadata == {"made": "été", "": "x"}
    assert len(data) < 1000
    noise = np.random.default_rng(0).bytes(5000)
    data, archive = round_trip({}, network=noise)
    assert archive.network == noise
    assert len(data) < 5100


LENET = {
    "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,), "conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,),
    "fc1.weight": (500, 800), "fc1.bias": (500,), "fc2.weight": (10, 500), "fc2.bias": (10,),
}  # fmt: skip


def test_what_is_not_weights_takes_less_than_forty_bytes_of_lenet():
    data = encode({name: np.zeros(shape, np.float32) for name, shape in LENET.items()})
    assert len(data) < 40


def test_masked_floats_cost_about_their_mask_and_their_nonzero_values():
    random = np.random.default_rng(0)
    weights = random.normal(size=(400, 500)).astype(np.float32)
    mask = random.random(weights.shape) < 0.1
    entropy = -(0.1 * np.log2(0.1) + 0.9 * np.log2(0.9)) * mask.size / 8
    for effort in EFFORTS:
        data, _ = round_trip({"w": np.where(mask, weights, np.float32(0))}, effort)
        assert len(data) < 1.03 * (entropy + 3.4 * mask.sum())


def test_levels_cost_close_to_their_entropy_and_far_less_where_rows_and_columns_are_dead():
    random = np.random.default_rng(0)
    levels = np.round(random.laplace(0, 3, (500, 400))).astype(np.int32)
    _, counts = np.unique(levels, return_counts=True)
    entropy = -(counts * np.log2(counts / levels.size)).sum() / 8
    grid = Uniform(np.array(np.float32(1)), np.array(0, np.int32))
    assert len(encode({"w": Quantized(levels, grid)})) < 1.012 * entropy
    assert len(encode({"w": Quantized(levels, grid)}, effort="fast")) < 1.02 * entropy
    alive = (random.random((500, 1)) < 0.1) * (random.random((1, 400)) < 0.1)
    dead = (levels * alive).astype(np.int32)
    assert len(encode({"w": Quantized(dead, grid)})) < 0.55 * _entropy(dead)


def _entropy(levels):
    _, counts = np.unique(levels, return_counts=True)
    return -(counts * np.log2(counts / levels.size)).sum() / 8


def golden():
    ramp = np.arange(-40, 40, dtype=np.int32).reshape(8, 10)
    sparse = np.where(ramp % 7 == 0, ramp // 7, 0).astype(np.int32)
    path = (ramp // 9).reshape(-1).copy()
    trellis.from_indices(path, trellis.MACHINES[8])
    tiled = np.tile(ramp, (9, 8)) * (1 + np.arange(72, dtype=np.int32)[:, None] % 5)
    return {
        "conv.weight": Quantized(
            sparse.reshape(4, 5, 2, 2), Uniform(np.full((4, 1, 1, 1), 0.5, np.float32), np.zeros((4, 1, 1, 1), np.int32))
        ),
        "conv.bias": np.linspace(-1, 1, 4, dtype=np.float32),
        "table": Quantized(np.abs(sparse) % 3, Table(np.float32([0, -1.5, 2])), mask=ramp % 2 == 0),
        "dense": Quantized(tiled, Uniform(np.array(np.float32(0.1)), np.array(2, np.int32))),
        "trellis": Quantized(path.reshape(8, 10), Uniform(np.array(np.float32(0.25)), np.array(0, np.int32)), trellis=8),
        "half": (tiled / 64).astype(np.float16),
        "steps": np.arange(100, dtype=np.int64),
        "count": np.array(2**40 + 1, np.int64),
    }


@pytest.mark.parametrize(("effort", "digest"), [("fast", "60da495c95c9ef14"), ("best", "120150be17bd0594")])
def test_the_bytes_of_version_one_never_change(effort, digest):
    data = encode(golden(), effort=effort, network=b"graph graph graph", metadata={"a": "b"})
    assert hashlib.sha256(data).hexdigest()[:16] == digest


def test_what_cannot_be_stored_is_refused_with_its_name():
    with pytest.raises(InputRefused, match="fc: levels from 0 to 5 do not fit a table of 2"):
        encode({"fc": Quantized(np.arange(6, dtype=np.int32), Table(np.float32([1, 2])))})
    with pytest.raises(InputRefused, match="fc: scales of shape"):
        encode({"fc": Quantized(np.zeros((4, 4), np.int32), Uniform(np.ones((5, 1), np.float32), np.zeros((5, 1), np.int32)))})
    with pytest.raises(InputRefused, match="dtype object"):
        encode({"fc": np.array([None])})
    with pytest.raises(UsageError, match="'fast', 'best'"):
        encode({}, effort="slow")

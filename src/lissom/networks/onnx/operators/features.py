"""Operators that make features of raw inputs: counts of n-grams, decoded images, and scikit-learn's scalers (``ai.onnx.ml``)."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from lissom.errors import ModelRefused
from lissom.networks.onnx.table import operator

LEARNING = "ai.onnx.ml"


@operator("TfIdfVectorizer", 9, ignores=("pool_strings",))
def count_n_grams(
    x: Tensor,
    *,
    min_gram_length: int,
    max_gram_length: int,
    max_skip_count: int,
    mode: str,
    ngram_counts: list[int],
    ngram_indexes: list[int],
    pool_int64s: list[int],
    weights: list[float] | None = None,
) -> Tensor:
    """How often each n-gram of a pool stands in each row of numbers, its elements up to ``max_skip_count`` places apart."""
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    counts = torch.zeros(rows.shape[0], max(ngram_indexes) + 1)
    ends, first = [*ngram_counts[1:], len(pool_int64s)], 0
    for size, (start, end) in enumerate(zip(ngram_counts, ends, strict=True), 1):
        grams = torch.tensor(pool_int64s[start:end]).reshape(-1, size)
        columns = torch.tensor(ngram_indexes[first : first + len(grams)], dtype=torch.int64)
        first += len(grams)
        if len(grams) and min_gram_length <= size <= max_gram_length:
            for apart in range(1, 2 if size == 1 else max_skip_count + 2):
                counts.index_add_(1, columns, _occurrences(rows, grams, apart))
    weight = torch.ones(()) if weights is None else torch.tensor(weights)
    found = {"TF": counts, "IDF": (counts > 0) * weight, "TFIDF": counts * weight}[mode]
    return found if x.ndim == 2 else found[0]


def _occurrences(rows: Tensor, grams: Tensor, apart: int) -> Tensor:
    """For each row and n-gram: at how many places the row holds it, its elements ``apart`` places from each other."""
    size = grams.shape[1]
    places = max(rows.shape[1] - (size - 1) * apart, 0)
    held = rows[:, torch.arange(places).unsqueeze(1) + apart * torch.arange(size)]
    return (held.unsqueeze(2) == grams).all(-1).sum(1).float()


@operator("ImageDecoder", 20)
def decode_image(encoded: Tensor, *, pixel_format: str = "RGB") -> Tensor:
    """The pixels [height, width, channels] of a compressed image, given as its bytes."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ModelRefused("the network decodes images (ImageDecoder), which needs Pillow: pip install pillow") from error
    image = Image.open(io.BytesIO(encoded.numpy().tobytes()))
    if pixel_format == "Grayscale":
        return torch.from_numpy(np.array(image.convert("L"))).unsqueeze(2)
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.flip(2) if pixel_format == "BGR" else pixels


@operator("ArrayFeatureExtractor", 1, domain=LEARNING)
def extract_columns(x: Tensor, positions: Tensor) -> Tensor:
    """Some of the last axis' elements, as a matrix."""
    picked = x.index_select(-1, positions.reshape(-1).long())
    return picked.reshape(1, -1) if x.ndim == 1 else picked


@operator("Binarizer", 1, domain=LEARNING)
def binarize(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    """One above the threshold, else zero."""
    return (x > threshold).to(x.dtype)


@operator("Scaler", 1, domain=LEARNING)
def scale_columns(x: Tensor, *, offset: list[float] | None = None, scale: list[float] | None = None) -> Tensor:
    """``(x - offset) * scale``, one of each for all columns or for each."""
    shifted = x.float() if offset is None else x - torch.tensor(offset)
    return shifted if scale is None else shifted * torch.tensor(scale)


@operator("Normalizer", 1, domain=LEARNING)
def normalize_rows(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """Rows divided by their largest element, or by their L1 or L2 norm."""
    size = {
        "MAX": lambda: x.amax(-1, keepdim=True),
        "L1": lambda: x.abs().sum(-1, keepdim=True),
        "L2": lambda: x.square().sum(-1, keepdim=True).sqrt(),
    }[norm]()
    return torch.where(size == 0, x, x / size).float()

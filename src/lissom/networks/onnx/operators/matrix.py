"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.operators.dtypes import computed_as_int64
from lissom.networks.onnx.table import operator


@operator("MatMul")
@computed_as_int64
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over the last two axes, the others broadcast."""
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, trans_a: int = 0, trans_b: int = 0
) -> Tensor:
    """``alpha * a @ b + beta * c``, either factor transposed where asked."""
    left = a.T if trans_a else a
    if alpha == 1.0 and beta == 1.0 and (c is None or (c.ndim == 1 and c.shape[0] == b.shape[0 if trans_b else 1])):
        return F.linear(left, b if trans_b else b.T, c)
    product = left @ (b.T if trans_b else b)
    product = product if alpha == 1.0 else _scaled(product, alpha)
    if c is None:
        return product
    return product + (c if beta == 1.0 else _scaled(c, beta))


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x * factor if x.is_floating_point() else (x * factor).to(x.dtype)


@operator("Einsum")
def einsum(*inputs: Tensor, equation: str) -> Tensor:
    """Sum of products by index letters; lower and upper case are different letters."""
    return torch.einsum(equation.replace(" ", ""), *inputs)

"""The archive: tensors as levels or exact values, entropy-coded, checked, and decoded without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lissom.codec.tensors import Quantized, Table, Uniform

if TYPE_CHECKING:
    from lissom.codec.archive import Archive, Reader, decode, encode, write

__all__ = ["Archive", "Quantized", "Reader", "Table", "Uniform", "decode", "encode", "write"]


def __getattr__(name: str) -> Any:
    """Load the coder, and numba with it, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lissom.codec import archive

    return getattr(archive, name)

"""Heap: what the allocator keeps of tensors that are gone goes back to the system when it is much."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["KEPT", "give_back"]

KEPT = 3 * 2**26
"""Bytes that the allocator may keep: what is given back must be mapped anew when it is needed again."""


class _Counts(ctypes.Structure):
    """What glibc's ``mallinfo2`` says; ``fordblks`` counts the bytes that are free and kept."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    )  # fmt: skip


def give_back(kept: int = KEPT) -> bool:
    """Give free memory back to the system where the allocator keeps more than ``kept`` bytes of it.

    Before its version 2.38, glibc seldom finds a freed block for an aligned request of the same size (its bug 14581), and
    all tensors are aligned: a loop that makes and drops tensors of a few MB would come to hold hundreds. Where there is no
    glibc, nothing happens.

    Returns:
        Whether it did.
    """
    found = _glibc()
    if found is None or found[0]() <= kept:
        return False
    found[1]()
    return True


@functools.cache
def _glibc() -> tuple[Callable[[], int], Callable[[], object]] | None:
    """What counts the free bytes, and what gives them back."""
    try:
        library = ctypes.CDLL("libc.so.6")
        count, trim = library.mallinfo2, library.malloc_trim
    except (OSError, AttributeError):
        return None
    count.restype = _Counts
    trim.argtypes = (ctypes.c_size_t,)
    return lambda: int(count().fordblks), lambda: trim(0)

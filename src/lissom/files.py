"""Files that appear whole or not at all, and fingerprints of what a run depends on."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lissom.errors import LissomError, OutputOccupied

__all__ = ["atomic_file", "digest", "exclusive", "fingerprint", "sweep", "write_bytes", "write_json", "write_text"]

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of ``path`` only once it is complete.

    The bytes go to a temporary file in the same folder, which is flushed to disk and renamed over
    ``path``; a crash, an interrupt or a full disk leaves what stood there before.

    Raises:
        LissomError: the disk is full or the folder cannot be written.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "weights.bin"
    >>> with atomic_file(target) as file:
    ...     _ = file.write(b"all of it")
    >>> target.read_bytes()
    b'all of it'
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        raise _machine_refused(target, error) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what a killed process left in ``folder`` of a file that it was writing (see :func:`atomic_file`)."""
    for path in Path(folder).iterdir():
        if path.is_file() and _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _machine_refused(target: Path, error: OSError) -> LissomError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LissomError(
            f"no disk space left to write {target}: nothing there was changed; free some space and run the same command again"
        )
    return LissomError(f"cannot write {target}: {error.strerror or error}")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` whole or not at all; NaN and infinity are refused by ``ValueError``."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal, read in pieces of one MiB."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def fingerprint(**parts: Any) -> str:
    """A short stable name for a set of values: equal parts give equal fingerprints on every machine.

    Args:
        parts: JSON values, or bytes (hashed as they are).

    >>> fingerprint(seed=0, weights=b"abc") == fingerprint(weights=b"abc", seed=0)
    True
    """
    state = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name]
        data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        state.update(f"{name}:{len(data)}:".encode())
        state.update(data)
    return state.hexdigest()[:16]


@contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock file ``path`` for as long as the block runs; the system frees it when the process dies.

    Raises:
        OutputOccupied: another process holds it.
        LissomError: the disk is full or the folder cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        held = open(target, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _machine_refused(target, error) from error
    with held as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputOccupied(
                f"another lissom run is writing to {target.parent.parent}: wait for it, or choose another --out"
            ) from error
        yield

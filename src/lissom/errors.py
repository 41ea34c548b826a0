"""Every error that lissom raises, as one tree; each kind has the exit code that the command ends with.

    LissomError                 1  the machine refused: no disk space, a missing extra
    ├── MissingExtra            1  an optional package is not installed; says the command that installs it
    ├── UsageError              2  an option or argument that makes no sense as written
    │   └── OutputOccupied      2  --out holds something that this run did not write
    ├── LimitNotMet             3  the closest result was written, and a limit is still exceeded
    ├── InputRefused            4  a model, a data set or a file that cannot be used as it is
    │   ├── ModelRefused        4  the network: a pickle, a missing weight, NaN, a shape that does not fit
    │   │   └── UnknownOperators 4  an ONNX file with operators that lissom cannot run
    │   ├── DataRefused         4  the data: empty, NaN, labels out of range, uint8 without a preprocess
    │   └── CorruptArchive      4  a .lissom file that is truncated, altered or hostile
    └── DeployFailed            5  the export or the runtime failed
        └── ParityFailed        5  the exported file runs, and answers differently

A message restates what the user gave (name, shape, value) and ends with what would work.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CorruptArchive",
    "DataRefused",
    "DeployFailed",
    "InputRefused",
    "LimitNotMet",
    "LissomError",
    "MissingExtra",
    "ModelRefused",
    "OutputOccupied",
    "ParityFailed",
    "UnknownOperators",
    "UsageError",
]


class LissomError(Exception):
    """The root of every error that lissom raises on purpose; alone, it means that the machine refused."""

    exit_code: ClassVar[int] = 1


class MissingExtra(LissomError):
    """An optional package is needed and not installed.

    >>> str(MissingExtra("pillow", extra="images", purpose="reading a folder of images"))
    "reading a folder of images needs pillow, which is not installed: run  pip install 'lissom[images]'"
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: run  pip install 'lissom[{extra}]'")


class UsageError(LissomError):
    """An option or argument that makes no sense as written."""

    exit_code = 2


class OutputOccupied(UsageError):
    """The output folder holds something that this run did not write."""


class LimitNotMet(LissomError):
    """The closest result was written, and a limit is still exceeded."""

    exit_code = 3


class InputRefused(LissomError):
    """A model, a data set or a file that cannot be used as it is."""

    exit_code = 4


class ModelRefused(InputRefused):
    """A network that cannot be used as it is."""


class UnknownOperators(ModelRefused):
    """An ONNX file with operators that lissom cannot run; what needs its weights only still works."""


class DataRefused(InputRefused):
    """A data set that cannot be used as it is."""


class CorruptArchive(InputRefused):
    """A .lissom file that is truncated, altered or hostile."""


class DeployFailed(LissomError):
    """The network could not be exported, or the exported file does not run."""

    exit_code = 5


class ParityFailed(DeployFailed):
    """The exported file runs, and its answers differ from the network's."""

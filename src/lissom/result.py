"""Result: the compressed network, its files, and every figure with how it was measured; saved to a folder and loaded back."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lissom.errors import InputRefused
from lissom.files import atomic_file, write_text
from lissom.network import Network
from lissom.report import byte_text, claim, recipe_yaml, render
from lissom.report.record import Record

__all__ = ["Result"]


@dataclass(frozen=True, repr=False)
class Result:
    """What a compression gives back.

    Args:
        record: Every figure, and how it was measured: the content of result.json.
        network: The compressed network; None where the result was loaded from a folder (``lissom.load`` reads its file).
        files: The files that belong to it by name (``"model.onnx"``), and where each lies.
    """

    record: Record
    network: Network | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def __repr__(self) -> str:
        shipped = "nothing" if self.record.shipped_bytes is None else byte_text(self.record.shipped_bytes)
        return f"<Result of {self.record.model}: {byte_text(self.record.bytes.source)} to {shipped}; {claim(self.record)}>"

    def save(self, folder: str | os.PathLike[str]) -> Result:
        """Write the files, recipe.yaml, report.html and, last, result.json into ``folder``, each whole or not at all.

        Files that lie in ``folder`` already are left as they are. The folder with result.json in it is complete.

        Returns:
            This result with ``files`` pointing into ``folder``.

        Raises:
            LissomError: the disk is full or the folder cannot be written.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = {name: _place(path, target / name) for name, path in self.files.items()}
        written = {
            "recipe.yaml": recipe_yaml(self.record),
            "report.html": render(self.record),
            "result.json": self.record.to_json(),
        }
        for name, text in written.items():
            write_text(target / name, text)
            files[name] = target / name
        return dataclasses.replace(self, files=files)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Result:
        """The result that :meth:`save` wrote into ``folder``, without the network.

        Raises:
            InputRefused: there is no result.json, or it is damaged or of another schema version.
        """
        target = Path(folder)
        path = target / "result.json"
        if not path.is_file():
            raise InputRefused(f"{target} holds no result.json: name the --out folder of a finished  lissom compress")
        record = Record.from_json(path.read_bytes(), origin=str(path))
        files = {found.name: found for found in sorted(target.iterdir()) if found.is_file() and not found.name.startswith(".")}
        return cls(record, None, files)


def _place(source: Path, target: Path) -> Path:
    """Copy a file to where it belongs, unless it is there already."""
    if not (target.exists() and source.samefile(target)):
        with open(source, "rb") as reading, atomic_file(target) as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
    return target

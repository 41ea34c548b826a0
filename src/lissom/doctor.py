"""Doctor: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from lissom.measure.machine import instruction_sets, machine
from lissom.runtimes import RUNTIMES

__all__ = ["Diagnosis", "Finding", "diagnose"]

EXTRAS = {
    "images": "reads folders of images",
    "demo": "the data of the demo",
    "keras": "reads and writes Keras models",
}
"""What extras are for, where their name does not say it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: What.
        value: What was found, in words.
        ok: False where something is missing.
        remedy: The command that installs what is missing, or what the finding means.
    """

    name: str
    value: str
    ok: bool = True
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at.

    Args:
        packages: Python, lissom, and every package that it needs.
        extras: Packages that are optional.
        runtimes: What can run and time files here.
        instructions: The CPU's instruction sets that decide how fast networks run.
        machine: CPU, cores, threads, memory, disk.
    """

    packages: tuple[Finding, ...]
    extras: tuple[Finding, ...]
    runtimes: tuple[Finding, ...]
    instructions: tuple[Finding, ...]
    machine: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing that lissom needs is missing; extras are optional."""
        return all(finding.ok for finding in self.packages)

    def sections(self) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
        """A title and its rows of three texts, for each section: what, what was found, what to do."""
        for field in dataclasses.fields(self):
            found: tuple[Finding, ...] = getattr(self, field.name)
            title = {"instructions": "Instruction sets"}.get(field.name, field.name.capitalize())
            yield title, [(finding.name, finding.value, finding.remedy) for finding in found]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        return {"healthy": self.healthy, **dataclasses.asdict(self)}


def diagnose(requirements: Sequence[str] | None = None) -> Diagnosis:
    """Look at the machine and at what is installed; nothing heavy is imported and nothing is written.

    Args:
        requirements: What must be there, as a package's metadata writes it (``"pillow>=11; extra == 'images'"``); by
            default what lissom's own metadata asks for, so that this list cannot fall behind the one that pip reads.

    >>> diagnose().packages[0].name
    'python'
    """
    needed = _by_extra(metadata.requires("lissom") or () if requirements is None else requirements)
    return Diagnosis(
        packages=(_python(), *(_package(name, "") for name in ("lissom", *needed.get("", ())))),
        extras=tuple(_package(name, extra) for extra in sorted(needed) if extra not in ("", "dev") for name in needed[extra]),
        runtimes=tuple(_runtime(name, needed) for name in RUNTIMES),
        instructions=tuple(_instructions(instruction_sets())),
        machine=tuple(_machine()),
    )


def _by_extra(requirements: Sequence[str]) -> dict[str, list[str]]:
    """Names of the packages that each extra asks for; those that are always needed under the empty name."""
    found: dict[str, list[str]] = {}
    for line in requirements:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        if name:
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return {extra: sorted(names) for extra, names in found.items()}


def _python() -> Finding:
    return Finding("python", platform.python_version())


def _package(name: str, extra: str) -> Finding:
    purpose = EXTRAS.get(extra, "")
    try:
        return Finding(name, metadata.version(name), remedy=purpose)
    except metadata.PackageNotFoundError:
        what = f"'lissom[{extra}]'" if extra else f"'{name}'"
        command = f"pip install {what}"
        return Finding(name, "missing", ok=False, remedy=f"{command}  ({purpose})" if purpose else command)


def _runtime(name: str, extras: Mapping[str, list[str]]) -> Finding:
    runtime = RUNTIMES[name]
    if util.find_spec(runtime.module) is None:
        what = f"'lissom[{runtime.extra}]'" if runtime.extra in extras and runtime.extra else runtime.module
        return Finding(name, "missing", ok=False, remedy=f"pip install {what}")
    return Finding(name, metadata.version(runtime.module))


def _instructions(sets: Mapping[str, bool]) -> Iterator[Finding]:
    for name, there in sets.items():
        yield Finding(name, "yes" if there else "no")
    if any("vnni" in name or "amx_int8" in name for name, there in sets.items() if there):
        meaning = "int8 files run on integer instructions of their own"
    else:
        meaning = "no VNNI: an int8 file may be no faster than float32 and may saturate; compress measures it and says so"
    yield Finding("int8", "fast" if meaning.startswith("int8") else "emulated", remedy=meaning)


def _machine() -> Iterator[Finding]:
    facts = machine()
    yield Finding("cpu", facts["cpu"])
    yield Finding("system", facts["system"])
    yield Finding("cores", str(facts["cores"]), remedy="usable by this process")
    threads = os.environ.get("OMP_NUM_THREADS")
    yield Finding(
        "threads",
        threads or f"{facts['cores']} (by default)",
        remedy="OMP_NUM_THREADS sets it; latency is measured with 1 thread",
    )
    available = _available_memory()
    spare = "" if available is None else f"{available / 1e9:.1f} GB available"
    yield Finding("memory", f"{facts['memory_bytes'] / 1e9:.1f} GB", remedy=spare)
    yield Finding("disk", f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free", remedy="in the current folder")


def _available_memory() -> int | None:
    """Bytes that can be had without swapping, where the system says so."""
    file = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", file.read_text(encoding="utf-8")) if file.exists() else None
    return int(found[1]) * 1024 if found else None

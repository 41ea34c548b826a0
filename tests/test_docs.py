"""The documents are true: commands that they show can be given, Python that they show runs, fields that they name exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn

import lissom
from lissom.cli.app import app

from .conftest import fit

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)


def code_lines(page: Path) -> list[str]:
    """Lines of a page that are indented or stand between fences."""
    kept, fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if fenced or line.startswith("    "):
            kept.append(line)
    return kept


def commands() -> list[str]:
    """Every ``lissom …`` that a page shows as code, or the examples of a command's help."""
    shown = [line for page in PAGES for line in code_lines(page)]
    for command in COMMAND.commands.values():
        shown += (command.epilog or "").replace("Example:", "").splitlines()
    parts = [part.strip().removeprefix("$ ") for line in shown for part in line.split("#")[0].split(" ; ")]
    return sorted({part for part in parts if re.match(r"lissom [a-z]+ [^=(]*$", part)})


@pytest.mark.parametrize("line", commands())
def test_commands_can_be_given_as_they_are_shown(line):
    _, name, *arguments = shlex.split(line)
    COMMAND.commands[name].make_context(name, arguments)


def test_there_are_commands_to_look_at():
    names = {line.split()[1] for line in commands()}
    assert {"inspect", "compress", "evaluate", "pack", "unpack"} <= names


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, tuple[np.ndarray, np.ndarray]]:
    """What the README calls ``network`` and ``data``."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    points = (4 * np.eye(4, 12)[labels] + random.normal(size=(300, 12))).astype(np.float32)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 4))
    fit(module, points, labels, learning_rate=2e-2, steps=40)
    return module, (points, labels)


def test_the_readmes_python_runs(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lissom.search.policy.ROUNDS", 1)
    names = {"network": trained[0], "data": trained[1]}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    assert isinstance(names["result"], lissom.Result)
    assert (tmp_path / "small" / "model.lissom").stat().st_size < names["result"].record.bytes.source


def test_the_design_names_every_field_of_the_record():
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    start = text.index("`result.json` (`docs/result.schema.json`")
    told = set(re.findall(r"[a-z_0-9]+", text[start : text.index("Exit codes", start)]))
    fields = {*schema["properties"]} - {"schema_version"}
    for name in ("MetricFigures", "Bytes", "Latency", "Percentiles", "Limit", "Parity", "Trial", "Layer", "BeforeAfter"):
        fields |= set(schema["$defs"][name]["properties"])
    assert fields <= told, fields - told

"""The page for Keras users is run from top to bottom, as a reader would."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

PAGE = Path(__file__).parents[1] / "docs" / "keras.md"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras: pip install 'lissom[keras]'")


def test_the_page_holds(tmp_path, monkeypatch):
    from lissom.cli.app import app

    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, block in re.findall(r"```(python|console|yaml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), names)
        elif language == "yaml":
            Path("recipe.yaml").write_text(block, encoding="utf-8")
        else:
            outcome = CliRunner().invoke(app, shlex.split(block)[1:])
            assert outcome.exit_code in (0, 3), outcome.output
    small, model = names["small"], names["model"]
    assert small.get_layer("first").filters == small.get_layer("second").filters == 8
    assert small.count_params() < 0.5 * model.count_params()
    assert model.evaluate(names["x"][600:], names["y"][600:], verbose=0)[1] > 0.9
    assert (names["fast"].argmax(1) == names["y"][600:]).mean() > 0.9
    assert {file.name for file in Path("small").iterdir()} >= {"model.keras", "model.onnx", "model.lissom", "report.html"}
    assert Path("pruned/model.keras").is_file()

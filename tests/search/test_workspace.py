"""Workspace: the same run resumes, another is refused, foreign files are safe, and two runs never mix."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lissom.errors import LissomError, OutputOccupied
from lissom.search.workspace import open_workspace


def test_a_new_folder_is_made_and_marked(tmp_path):
    with open_workspace(tmp_path / "deep" / "out", "mark") as workspace:
        assert not workspace.finished
        assert json.loads((workspace.root / "job.json").read_text()) == {"fingerprint": "mark"}


def test_the_same_fingerprint_finds_its_trials(tmp_path):
    with open_workspace(tmp_path, "mark") as workspace:
        (workspace.trial("strength 0.500") / "trial.json").write_text("{}")
    with open_workspace(tmp_path, "mark") as workspace:
        assert (workspace.trial("strength 0.500") / "trial.json").read_text() == "{}"


def test_another_fingerprint_is_refused_and_nothing_is_touched(tmp_path):
    with open_workspace(tmp_path, "mark") as workspace:
        (workspace.trial("a") / "trial.json").write_text("{}")
    with pytest.raises(OutputOccupied, match=r"the work of a run with other inputs or options.*--force"):
        open_workspace(tmp_path, "other").__enter__()
    with open_workspace(tmp_path, "mark") as workspace:
        assert (workspace.trial("a") / "trial.json").exists()


def test_force_starts_again(tmp_path):
    with open_workspace(tmp_path, "mark") as workspace:
        (workspace.trial("a") / "trial.json").write_text("{}")
        (tmp_path / "result.json").write_text("{}")
    with open_workspace(tmp_path, "other", force=True) as workspace:
        assert not (workspace.trial("a") / "trial.json").exists()
        assert not workspace.finished


def test_foreign_files_are_refused_and_survive_force(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputOccupied, match="holds files that lissom did not write"):
        open_workspace(tmp_path, "mark").__enter__()
    assert not (tmp_path / ".lissom-job").exists()
    with open_workspace(tmp_path, "mark", force=True):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_free(tmp_path):
    with open_workspace(tmp_path, "mark") as workspace:
        assert workspace.out == tmp_path


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint":'])
def test_a_damaged_mark_is_refused_as_foreign(tmp_path, content):
    (tmp_path / ".lissom-job").mkdir()
    (tmp_path / ".lissom-job" / "job.json").write_text(content)
    with pytest.raises(OutputOccupied):
        open_workspace(tmp_path, "mark").__enter__()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputOccupied, match="is a file: name a folder"):
        open_workspace(tmp_path / "out", "mark").__enter__()


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((LissomError, OutputOccupied), match=r"cannot|is a file"):
        open_workspace(tmp_path / "file" / "out", "mark").__enter__()


def test_another_process_is_told_to_wait_and_a_dead_one_frees_the_lock(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom lissom.search.workspace import open_workspace\n"
        "with open_workspace(Path(sys.argv[1]), 'mark'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputOccupied, match="another lissom run is writing to"):
            open_workspace(tmp_path, "mark").__enter__()
        other.kill()
    with open_workspace(tmp_path, "mark") as workspace:
        assert not workspace.finished


def test_trials_have_folders_of_their_own(tmp_path):
    with open_workspace(tmp_path, "mark") as workspace:
        names = ["8-bit weights", "strength 0.500", "strength 0.750", "a/../b"]
        folders = [workspace.trial(name) for name in names]
        assert len(set(folders)) == 4
        assert all(folder.parent == workspace.root / "trials" for folder in folders)
        workspace.clean()
        assert not any(folder.exists() for folder in folders)
        assert (workspace.root / "job.json").exists()

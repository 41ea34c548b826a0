"""Result: saving writes everything whole, loading gives the record back, and what is no result is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from lissom.errors import InputRefused, LissomError
from lissom.report.record import BeforeAfter, Bytes, MetricFigures, Record
from lissom.result import Result


@pytest.fixture
def record():
    return Record(
        model="examples.lenet:lenet5",
        metric=MetricFigures(name="accuracy", unit="share", split="test", n=10, before=0.9, after=0.8, drop=0.1),
        bytes=Bytes(source=1000, onnx=900, archive=100),
        parameters=BeforeAfter(before=250, after=200),
        goal="size",
        ship="archive",
        recipe={"version": 1, "steps": [{"PruneWeights": {"sparsity": 0.9}}], "deploy": {}},
        machine={"cores": 2},
        versions={"lissom": "0.1.0"},
        seed=3,
        seconds=1.25,
    )


@pytest.fixture
def files(tmp_path):
    made = {"model.onnx": b"onnx" * 1000, "model.lissom": b"archive"}
    folder = tmp_path / "work"
    folder.mkdir()
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in made}


def test_saved_results_load_back(record, files, tmp_path):
    saved = Result(record, files=files).save(tmp_path / "out")
    loaded = Result.load(tmp_path / "out")
    assert loaded.record == record
    assert loaded.network is None
    assert dict(loaded.files) == dict(saved.files)
    assert set(loaded.files) == {"model.onnx", "model.lissom", "recipe.yaml", "report.html", "result.json"}
    assert (tmp_path / "out" / "model.onnx").read_bytes() == files["model.onnx"].read_bytes()
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()) == record.recipe


def test_saving_twice_gives_the_same_bytes(record, files, tmp_path):
    first = Result(record, files=files).save(tmp_path / "out")
    before = {name: path.read_bytes() for name, path in first.files.items()}
    again = first.save(tmp_path / "out")
    assert {name: path.read_bytes() for name, path in again.files.items()} == before


def test_files_already_in_place_are_not_written_again(record, files):
    folder = files["model.onnx"].parent
    inode = (folder / "model.onnx").stat().st_ino
    Result(record, files=files).save(folder)
    assert (folder / "model.onnx").stat().st_ino == inode


def test_nothing_is_left_over_beside_the_files(record, files, tmp_path):
    Result(record, files=files).save(tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_folder_without_result_is_refused(tmp_path):
    with pytest.raises(InputRefused, match=r"holds no result\.json"):
        Result.load(tmp_path)


def test_another_schema_version_is_refused_by_its_path(record, tmp_path):
    Result(record).save(tmp_path)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(InputRefused, match=r"result\.json has schema version 99; this lissom reads version 1"):
        Result.load(tmp_path)


def test_result_json_comes_last_and_not_at_all_after_a_failure(record, files, tmp_path):
    (tmp_path / "out" / "report.html").mkdir(parents=True)  # a folder where the page must go: writing it fails
    with pytest.raises(LissomError, match="cannot write"):
        Result(record, files=files).save(tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()


def test_result_loads_without_the_report_room_reading_torch(record, tmp_path):
    Result(record).save(tmp_path)
    assert Record.from_json((tmp_path / "result.json").read_bytes()) == record


def test_repr_fits_on_a_screen(record):
    text = repr(Result(record))
    assert len(text) < 200
    assert "1.00 kB to 100 B" in text.replace("\u00a0", " ")

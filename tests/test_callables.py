import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.callables import current_folder_first, load_callable, names_callable
from lissom.errors import UsageError

words = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
paths = st.lists(words, min_size=1, max_size=3).map(".".join)


@settings(deadline=None, derandomize=True)
@given(paths, paths)
def test_a_name_is_a_module_and_what_is_in_it(module, attribute):
    assert names_callable(f"{module}:{attribute}")


@pytest.mark.parametrize(
    "text", ["model.onnx", "a/b.pt2", "C:\\models\\m.onnx", "module:", ":build", "a:b:c", "a b:c", "", "http://x/y"]
)
def test_a_path_is_no_name(text):
    assert not names_callable(text)
    with pytest.raises(UsageError, match=r"names no callable: write  package\.module:callable"):
        load_callable(text)


def test_an_attribute_of_a_class_can_be_named():
    assert load_callable("collections:OrderedDict.fromkeys")("ab") == {"a": None, "b": None}


def test_the_current_folder_comes_first_and_the_path_is_as_before(tmp_path, monkeypatch):
    (tmp_path / "chosen_here.py").write_text("def build():\n    return 'here'\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "chosen_here.py").write_text("def build():\n    return 'there'\n")
    monkeypatch.syspath_prepend(other)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        assert load_callable("chosen_here:build")() == "here"
    finally:
        sys.modules.pop("chosen_here", None)
    assert sys.path == before


def test_code_that_changes_the_path_itself_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with current_folder_first():
        sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]
    assert sys.path == before

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.errors import UsageError
from lissom.network import Preprocess
from lissom.networks.preprocess import PREPROCESSES, preprocess_dict, read_preprocess

numbers = st.floats(-100, 100, allow_nan=False)
positive = st.floats(0.001, 100)
preprocesses = st.builds(
    Preprocess,
    size=st.none() | st.integers(1, 999),
    crop=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    scale=positive,
    mean=st.tuples(numbers) | st.tuples(numbers, numbers, numbers),
    std=st.tuples(positive) | st.tuples(positive, positive, positive),
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(preprocesses)
def test_fields_yaml_and_json_give_the_same_back(preprocess):
    fields = preprocess_dict(preprocess)
    assert read_preprocess(fields) == preprocess
    assert read_preprocess(json.loads(json.dumps(fields))) == preprocess
    assert read_preprocess(yaml.safe_load(yaml.safe_dump(fields))) == preprocess


@pytest.mark.parametrize("name", PREPROCESSES)
def test_every_name_and_its_file_are_the_same(tmp_path, name):
    for file, dump in ((tmp_path / "p.yaml", yaml.safe_dump), (tmp_path / "p.json", json.dumps)):
        file.write_text(dump(preprocess_dict(PREPROCESSES[name])))
        assert read_preprocess(file) == read_preprocess(str(file)) == read_preprocess(name)


def test_one_number_stands_for_a_tuple_or_a_square():
    assert read_preprocess({"mean": 0.5, "std": 2, "crop": 32}) == Preprocess(mean=(0.5,), std=(2.0,), crop=(32, 32))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("imagenot", "no preprocess 'imagenot': give imagenet, .*unit, or a YAML or JSON file of size, crop"),
        ({"sizes": 3}, "preprocess has no field sizes: it has size, crop, layout, scale, mean, std"),
        ({"size": "large"}, "size is 'large': Input should be a valid integer"),
        ({"std": [0]}, "every value must be above 0"),
        ({"layout": "HWC"}, "layout is 'HWC'"),
        ({"crop": [1, 2, 3]}, "crop"),
    ],
)
def test_a_mistake_is_named(source, words):
    with pytest.raises(UsageError, match=words):
        read_preprocess(source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n- 2\n", "holds list, not fields"),
        ("scale: [1, ", "not readable as YAML or JSON"),
        ("!!python/object/apply:os.getcwd []", "not readable"),
    ],
)
def test_a_file_that_holds_no_fields_is_refused(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_preprocess(tmp_path / "p.yaml")

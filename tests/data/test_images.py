import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lissom.data import load_data
from lissom.errors import DataRefused
from lissom.network import Network, Preprocess

UNIT = Preprocess(scale=1 / 255)


def network(channels=3, side=8, classes=2, preprocess=UNIT):
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, classes))
    return Network(module, (torch.zeros(2, channels, side, side),), preprocess=preprocess)


def draw(path, colour, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def colours(folder, names=("blue", "red"), count=6):
    for name in names:
        for index in range(count):
            draw(folder / name / f"{index}.png", (255 if name == "red" else 0, 0, 255 if name == "blue" else 0))


def every(data):
    batches = [split.first(99) for split in (data.train, data.validation, data.test)]
    return torch.cat([inputs[0] for inputs, _ in batches]), [label for _, labels in batches for label in labels.tolist()]


def test_a_folder_for_each_class_gives_labels_in_the_order_of_names(tmp_path):
    colours(tmp_path)
    inputs, labels = every(load_data(tmp_path, network()))
    assert inputs.shape == (12, 3, 8, 8)
    assert sorted(labels) == [0] * 6 + [1] * 6
    for picture, label in zip(inputs, labels, strict=True):
        assert picture[0].mean() == (1.0 if label == 1 else 0.0)  # red comes after blue


def test_folders_named_by_numbers_are_the_labels(tmp_path):
    for label in (2, 10):
        for index in range(5):
            draw(tmp_path / str(label) / f"{index}.png", (label, label, label))
    inputs, labels = every(load_data(tmp_path, network(classes=11)))
    assert set(labels) == {2, 10}
    assert [round(float(picture.mean()) * 255) for picture in inputs] == labels


def test_loose_images_have_no_labels(tmp_path):
    for index in range(8):
        draw(tmp_path / f"{index}.png", (index, 0, 0))
    data = load_data(tmp_path, network())
    assert data.task == "imitate"
    assert len(data.train) == 6


def test_given_split_folders_are_kept(tmp_path):
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        colours(tmp_path / part, count=count)
    data = load_data(tmp_path, network())
    assert [len(split) for split in (data.train, data.validation, data.test)] == [10, 4, 6]


def test_colour_files_become_grey_for_a_network_of_one_channel(tmp_path):
    for index in range(5):
        draw(tmp_path / f"{index}.png", (255, 255, 255))
    assert torch.equal(load_data(tmp_path, network(channels=1)).train.first(1)[0][0], torch.ones(1, 1, 8, 8))


def test_grey_files_become_colour_for_a_network_of_three(tmp_path):
    for index in range(5):
        draw(tmp_path / f"{index}.png", 51, mode="L")
    assert torch.allclose(load_data(tmp_path, network()).train.first(1)[0][0], torch.full((1, 3, 8, 8), 0.2))


def test_pictures_are_resized_by_the_shorter_side_and_cropped_at_the_centre(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255  # the middle square is white
    for index in range(5):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    data = load_data(tmp_path, network(side=8, preprocess=Preprocess(size=10, crop=(8, 8), scale=1 / 255)))
    assert torch.equal(data.train.first(1)[0][0], torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("prepare", "classes", "preprocess", "words"),
    [
        (lambda folder: None, 2, UNIT, "holds no images: put"),
        (colours, 2, None, "holds uint8 images and the network has no preprocess: add  --preprocess imagenet"),
        (colours, 5, UNIT, "2 folders of classes .*; the network has 5 classes: name the folders by their class numbers, 0 to 4"),
        (lambda folder: (colours(folder), draw(folder / "loose.png", 0)), 2, UNIT, "loose.png lies beside folders of classes"),
        (
            lambda folder: (colours(folder, count=3), draw(folder / "red" / "x.png", 0, (9, 9))),
            2,
            UNIT,
            "images of different sizes|shape",
        ),
        (lambda folder: (colours(folder), draw(folder / "7" / "x.png", 0)), 2, UNIT, "3 folders of classes"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, prepare, classes, preprocess, words):
    prepare(tmp_path)
    with pytest.raises(DataRefused, match=words):
        every(load_data(tmp_path, network(classes=classes, preprocess=preprocess)))


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_damaged_image_is_named(tmp_path, content):
    colours(tmp_path)
    whole = (tmp_path / "red" / "0.png").read_bytes()
    for name in ("blue", "red"):
        for file in (tmp_path / name).iterdir():
            file.write_bytes(whole[:40] if content is None else content)
    with pytest.raises(DataRefused, match=r"\d\.png is not a readable image .*: remove or replace it"):
        load_data(tmp_path, network())

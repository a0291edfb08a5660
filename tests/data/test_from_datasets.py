"""Anybody's datasets: labels by attribute or by iterating, images of every kind, and refusals."""

import numpy as np
import pytest
import torch
from pictures import noise, settings
from PIL import Image

from hiercnn.data import from_datasets, make_loader, prepare
from hiercnn.errors import DataError


class Pairs(torch.utils.data.Dataset):
    """(image, label) pairs from lists; counts how often it is read."""

    def __init__(self, images, labels, **attributes):
        self.images, self.labels, self.reads = images, labels, 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        self.reads += 1
        return self.images[index], self.labels[index]


IMAGES = noise(6)
LABELS = [0, 1, 1, 0, 1, 0]


def eval_images(source, **options) -> torch.Tensor:
    """The training images as the network gets them, not normalised."""
    data = prepare(source, None, settings(val=1, mean=[0.0] * source.channels, std=[1.0] * source.channels, **options), 0)
    loader = make_loader(
        data.train, settings(mean=[0.0] * source.channels, std=[1.0] * source.channels, **options), train=False, channels=source.channels
    )
    return torch.cat([batch.images for batch in loader.epoch()])


@pytest.mark.parametrize("targets", [LABELS, np.array(LABELS), torch.tensor(LABELS)], ids=["list", "array", "tensor"])
def test_targets_spare_the_reading(targets):
    train = Pairs(IMAGES, LABELS, targets=targets, classes=["no", "yes"])
    source = from_datasets(train)
    assert source.train.labels.tolist() == LABELS
    assert source.names == ("no", "yes")
    assert train.reads <= 1  # one image, for its channels


def test_labels_are_read_where_there_are_no_targets():
    source = from_datasets(Pairs(IMAGES, [torch.tensor(label) for label in LABELS]), test=Pairs(IMAGES, LABELS), classes=["no", "yes"])
    assert source.train.labels.tolist() == source.test.labels.tolist() == LABELS
    assert source.val is None
    assert source.test.ids[3] == "test/3"


KINDS = {
    "uint8 arrays": (list(IMAGES), 3),
    "uint8 tensors": (list(torch.from_numpy(IMAGES)), 3),
    "RGB": ([Image.fromarray(image.transpose(1, 2, 0)) for image in IMAGES], 3),
    "grey": ([Image.fromarray(image[0]) for image in IMAGES], 1),
    "palette": ([Image.fromarray(np.repeat(image[:1], 3, 0).transpose(1, 2, 0)).quantize() for image in IMAGES], 3),
}


@pytest.mark.parametrize(("images", "channels"), KINDS.values(), ids=KINDS)
def test_kinds_of_images(images, channels):
    source = from_datasets(Pairs(images, LABELS), classes=["no", "yes"])
    assert source.channels == channels
    kept = prepare(source, None, settings(val=1), 0).train.positions
    wanted = IMAGES if images is not KINDS["palette"][0] and channels == 3 else np.repeat(IMAGES[:, :1], channels, 1)
    torch.testing.assert_close(eval_images(source), torch.from_numpy(wanted[kept] / np.float32(255)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_images_are_used_as_they_are(dtype):
    images = IMAGES.astype(dtype) * 3 - 100
    source = from_datasets(Pairs(list(images), LABELS), classes=["no", "yes"])
    loader = make_loader(source.train, settings(image_size=4), train=False, channels=3)
    batch = next(loader.epoch())
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, torch.from_numpy(images).float())


def test_own_val_and_test_are_used():
    train, val, test = (Pairs(noise(6, seed=s), LABELS) for s in range(3))
    data = prepare(from_datasets(train, val, test, classes=["no", "yes"]), None, settings(val="given"), 0)
    assert [data.train.ids[0], data.val.ids[0], data.test.ids[0]] == ["train/0", "val/0", "test/0"]
    assert (data.val.fetch(4) == torch.from_numpy(val.images[4])).all()


def test_own_val_is_joined_when_val_is_carved():
    train, val = Pairs(noise(6), LABELS), Pairs(noise(6, seed=1), LABELS)
    data = prepare(from_datasets(train, val, classes=["no", "yes"]), None, settings(val=2), 0)
    assert (len(data.train), len(data.val)) == (8, 4)
    for split in (data.train, data.val):
        for i, name in enumerate(split.ids):
            origin, number = name.split("/")
            assert (split.fetch(i) == torch.from_numpy({"train": train, "val": val}[origin].images[int(number)])).all()


def test_images_of_several_sizes_need_image_size():
    images = [noise(1, size=size)[0] for size in (8, 9, 8, 9, 10, 11)]
    source = from_datasets(Pairs(images, LABELS), classes=["no", "yes"])
    with pytest.raises(DataError, match=r"have the shapes \(3, 8, 8\) and \(3, 9, 9\); set data\.image_size"):
        list(make_loader(source.train, settings(), train=False, channels=3).epoch())
    assert eval_images(source, image_size=8).shape[1:] == (3, 8, 8)


REFUSED = {
    "no classes": (LABELS, None, r"has no \.classes; pass classes=\[\.\.\.\]"),
    "multi-label": ([0, [0, 1], 0, 0, 0, 0], ["a", "b"], "train sample 1 has 2 labels; multi-label data are not supported"),
    "one-hot": (list(np.eye(2)[LABELS]), ["a", "b"], "train sample 0 has 2 labels"),
    "above": ([0, 1, 2, 0, 0, 0], ["a", "b"], r"train sample 2 has the label 2, but there are 2 classes \(0\.\.1\)"),
    "below": ([0, -1, 1, 0, 0, 0], ["a", "b"], "train sample 1 has the label -1"),
    "fraction": ([0, 0.5, 1, 0, 0, 0], ["a", "b"], r"train sample 1 has the label 0\.5; labels are class indices"),
    "text": (["a", "b", "a", "b", "a", "b"], ["a", "b"], "train sample 0 has the label 'a'; labels are class indices"),
    "empty": ([], ["a", "b"], "the train dataset is empty"),
}


@pytest.mark.parametrize(("labels", "classes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_datasets(labels, classes, message):
    with pytest.raises(DataError, match=message):
        from_datasets(Pairs(IMAGES, labels), classes=classes)


def test_wrong_labels_name_the_split():
    with pytest.raises(DataError, match="test sample 0 has the label 7"):
        from_datasets(Pairs(IMAGES, LABELS), test=Pairs(IMAGES, [7]), classes=["a", "b"])


def test_target_transform_is_obeyed():
    class Shifted:
        classes = ("a", "b")
        targets = (0, 1)  # as they stand in the files; samples bring them turned round

        def target_transform(self, label):
            return 1 - label

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return np.zeros((3, 8, 8), np.uint8), self.target_transform(self.targets[index])

    assert from_datasets(Shifted()).train.labels.tolist() == [1, 0]


class One(list):
    classes = ("a", "b")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), r"train images should be PIL images or \[channels, H, W\] arrays or tensors, got \[16, 16, 3\]"),
        (torch.zeros(16, 16, dtype=torch.uint8), r"got \[16, 16\]"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), r"should be uint8 \(0..255\) or float, got torch.int64"),
        (None, "got NoneType"),
    ],
)
def test_images_of_another_kind_are_refused(image, message):
    with pytest.raises(DataError, match=message):
        from_datasets(One([(image, 0), (image, 1)]))


def test_splits_of_different_kinds_are_refused():
    train, val = (One([(image, 0), (image, 1)]) for image in (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)))
    with pytest.raises(DataError, match="val images are of another kind than train images: 3 channels, uint8"):
        from_datasets(train, val)

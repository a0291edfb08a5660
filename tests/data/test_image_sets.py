"""Sets of images: names held in one block, selections, digests; and sources whose names, labels and images do not fit together."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import memory_source, noise

from hiercnn.data import ImageSet, Source, data_sets, in_memory
from hiercnn.data import _image_set as image_sets
from hiercnn.data._names import Files, Names, joined
from hiercnn.errors import DataError

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.just("caf\udce9.png"), max_size=12)  # a name that is not UTF-8


@given(TEXTS, TEXTS, st.randoms(use_true_random=False))
def test_names_are_a_sequence(first, second, random):
    names, rows = Names.of(first), random.sample(range(len(first)), len(first) // 2)
    assert list(names) == [names[i] for i in range(len(first))] == first
    taken = names.take(np.array(rows, dtype=np.int64))
    assert taken == [first[i] for i in rows]
    assert names[1:3] == first[1:3]
    assert joined(taken, names) == [first[i] for i in rows] + first
    assert joined(taken, Names.of(second)) == [first[i] for i in rows] + second
    assert joined(names, second) == first + second
    assert pickle.loads(pickle.dumps(taken)) == taken
    assert (names == Names.of(second)) == (first == second)


def test_files_are_names_below_a_root():
    files = Files(Path("root"), Names.of(["a/1.png", "/elsewhere/2.png"]))
    assert files == [Path("root/a/1.png"), Path("/elsewhere/2.png")]
    assert files.take(np.array([1])) == [Path("/elsewhere/2.png")]
    assert joined(files, files.take(np.array([0]))) == [*files, Path("root/a/1.png")]
    assert joined(files, Files(Path("other"), Names.of(["b"]))) == [*files, Path("other/b")]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_digests_do_not_depend_on_how_names_are_held(monkeypatch, chunk):
    ids = ["a\nb", "c", "", "caf\udce9", "e"]
    digests = {ImageSet(np.arange(5), ids).digest, ImageSet(np.arange(5), Names.of(ids)).digest}
    monkeypatch.setattr(image_sets, "DIGEST_CHUNK", chunk)
    assert {ImageSet(np.arange(5), Names.of(ids)).digest} == digests == {"ec9eb65138627fca"}  # runs keep them: they may not change


def test_members_are_the_images_of_each_class_in_order():
    images = in_memory(noise(7), np.array([2, 0, 3, 0, 2, 2, 0]), "train")
    assert [found.tolist() for found in images.members(3)] == [[1, 3, 6], [], [0, 4, 5]]


def test_a_manifest_takes_little_memory(tmp_path):
    """A path as bytes, and 40 bytes for all that is known of the image; not a Path, a text and a tuple."""
    lines, path = 20_000, "images/train/class_{:03}/photo_{:08}.jpg"
    listed = [f"{path.format(i % 100, i)},class_{i % 100},{'val' if i % 10 == 0 else 'train'}" for i in range(lines)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *listed]))
    tracemalloc.start()
    source = data_sets["manifest"](file=tmp_path / "list.csv")
    held, peak = (value / lines for value in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert len(source.train) + len(source.val) == lines
    assert held < len(path) + 40
    assert peak < 5 * len(path)


# --- What does not fit together -------------------------------------------------------------------------------------------------------

IMAGES = in_memory(noise(4), np.array([0, 1, 0, 1]), "train")
LABELS = {"above": [0, 2, 0, 1], "below": [0, -1, 0, 1]}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_that_are_no_names_are_refused(labels):
    wrong = in_memory(noise(4), np.array(labels), "test")
    with pytest.raises(DataError, match=rf"test image test/1 has the label {labels[1]}, but there are 2 names \(0\.\.1\)"):
        Source(("cat", "dog"), IMAGES, test=wrong)


def test_names_that_repeat_are_refused():
    with pytest.raises(DataError, match="class names stand there twice: 'cat'; every class has a name of its own"):
        Source(("cat", "dog", "cat"), IMAGES)


def test_images_without_labels_are_refused():
    with pytest.raises(DataError, match="train has 3 labels for 4 images; give each image one"):
        Source(("cat", "dog"), in_memory(noise(4), np.array([0, 1, 0]), "train"))


def test_a_source_that_fits_is_taken():
    assert set(memory_source({"cat": 1, "dog": 2}, test={"dog": 1}).present()) == {"train", "test"}

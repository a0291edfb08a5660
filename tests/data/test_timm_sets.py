"""Data sets that timm reads: class names, labels and pixels of each kind, and what is said about what is missing or wrong."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import noise, save, save_all, settings
from PIL import Image

import hiercnn
from hiercnn.data import _timm as timm_sets
from hiercnn.data import data_sets, make_loader, prepare
from hiercnn.errors import DataError

WORKERS = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:This process .* is multi-threaded")
FOUR = ["cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"]


def read(root=None, **options):
    return data_sets["timm"](root=root, **options)


def classes_of(source, split: str = "train") -> list[str]:
    return [source.names[label] for label in getattr(source, split).labels]


def pixels(image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def png(seed: int) -> bytes:
    written = io.BytesIO()
    Image.fromarray(noise(1, seed=seed)[0].transpose(1, 2, 0)).save(written, "png")
    return written.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pictures_in_tar(path: Path, names) -> Path:
    return tar(path, {name: png(seed) for seed, name in enumerate(names)})


# --- Folders and tar files ------------------------------------------------------------------------------------------------------------


def test_folders_are_files(tmp_path):
    root = save_all(tmp_path, [f"{split}/{name}" for split in ("train", "validation") for name in FOUR])
    source = read(root, val_split="val")
    assert source.names == ("cat", "dog")
    assert classes_of(source) == classes_of(source, "val") == ["cat", "cat", "dog", "dog"]
    assert source.val.paths[2] == root / "validation" / "dog" / "3.png"
    assert read(root / "train").train.ids == FOUR


def test_classes_are_matched_by_name_where_a_split_lacks_some(tmp_path):
    root = save_all(tmp_path, [*(f"train/{name}" for name in FOUR), "test/dog/5.png"])
    source = read(root, test_split="test", classes=["Felis", "Canis"])
    assert classes_of(source, "test") == ["Canis"]
    assert classes_of(source) == ["Felis", "Felis", "Canis", "Canis"]


@pytest.mark.parametrize("nested", [False, True], ids=["tar", "tar of tars"])
def test_tar_files(tmp_path, nested):
    if nested:
        parts = {f"{name}.tar": pictures_in_tar(tmp_path / "part.tar", ["1.png", "2.png"]).read_bytes() for name in ("cat", "dog")}
        source = read(tar(tmp_path / "all.tar", parts))
    else:
        source = read(pictures_in_tar(tmp_path / "all.tar", ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]))
    found = dict(zip(source.train.ids, classes_of(source), strict=True))
    assert found == {"cat/1.png": "cat", "cat/2.png": "cat", "dog/1.png": "dog", "dog/2.png": "dog"}
    at = list(source.train.ids).index("dog/2.png")
    np.testing.assert_array_equal(pixels(source.train.fetch(at)), noise(1, seed=1 if nested else 3)[0])


def test_tar_files_as_splits(tmp_path):
    for split in ("train", "test"):
        pictures_in_tar(tmp_path / f"{split}.tar", FOUR)
    source = read(tmp_path, train_split="train.tar", test_split="test.tar")
    assert classes_of(source, "test") == ["cat", "cat", "dog", "dog"]


@WORKERS
def test_workers_read_one_tar_file_at_a_time(tmp_path):
    """A handle shared by forked workers would be moved by one while the other reads."""
    source = read(pictures_in_tar(tmp_path / "all.tar", [f"{name}/{i:03}.png" for name in ("cat", "dog") for i in range(60)]))
    options = settings(workers=2, eval_batch_size=8, mean=[0.0] * 3, std=[1.0 / 255] * 3)
    source.train.fetch(0)  # before the workers begin
    images = torch.cat([batch.images for batch in make_loader(source.train, options, train=False, channels=3).epoch()])
    wanted = np.concatenate([noise(1, seed=seed) for seed in range(120)])
    np.testing.assert_allclose(images.numpy(), wanted, atol=0.01)


BAD_FOLDERS = {
    "no split": (["train/cat/1.png", "train/dog/1.png"], {"test_split": "test"}, r"test_split: no 'test' in .*holds the images of train"),
    "no train": (["val/cat/1.png", "val/dog/1.png"], {"val_split": "val"}, r"train_split: no 'train' in .*holds the images of val"),
    "stranger": (["train/cat/1.png", "train/dog/1.png", "val/cow/1.png"], {"val_split": "val"}, "val has classes that train lacks: 'cow'"),
    "outside": (["1.png", "dog/1.png"], {}, "holds images outside class folders"),
    "repeated": (["a/cat/1.png", "b/cat/1.png"], {}, "two class folders are called 'cat': a/cat and b/cat"),
    "no images": (["cat/readme.txt"], {}, "timm cannot read the split 'train' of '' in .*: Found 0 images"),
    "another number": (FOUR, {"classes": ["cat"]}, "data.classes: 1 names, but the data have 2 classes: 'cat', 'dog'"),
    "repeated name": (FOUR, {"classes": ["cat", "cat"]}, "class names stand there twice: 'cat'"),
    "no names": (FOUR, {"classes": []}, "data.classes: no names; one name a class"),
    "empty name": (FOUR, {"classes": ["cat", " "]}, "data.classes: name 2 is empty"),
    "no file of names": (FOUR, {"classes": "nowhere.txt"}, "data.classes: cannot read nowhere.txt: .*wanted a text file"),
    "unknown": (FOUR, {"dataset": "hdfs/x"}, "unknown prefix 'hdfs/'; did you mean 'hfds'"),
}


@pytest.mark.parametrize(("files", "options", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_folders(tmp_path, files, options, message):
    for file in files:
        save(tmp_path / file) if file.endswith("png") else (tmp_path / file).parent.mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        read(tmp_path, **options)


def test_missing_roots():
    with pytest.raises(DataError, match=r"data\.root is missing"):
        read()
    with pytest.raises(DataError, match=r"data\.root: nowhere does not exist"):
        read("nowhere")


@pytest.mark.parametrize(("kind", "package"), [("hfds", "datasets"), ("wds", "webdataset"), ("tfds", "tensorflow-datasets")])
def test_missing_packages(monkeypatch, kind, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=f"{kind}/ needs a package that is not installed: pip install {package}"):
        read(dataset=f"{kind}/x")


# --- torchvision ----------------------------------------------------------------------------------------------------------------------


def test_torchvision_sets(tmp_path):
    source = read(save_all(tmp_path, [f"train/{name}" for name in FOUR]), dataset="torch/image_folder")
    assert (source.names, classes_of(source)) == (("cat", "dog"), ["cat", "cat", "dog", "dog"])
    with pytest.raises(DataError, match="timm cannot read the split 'train' of 'torch/cifar10' in .*not found"):
        read(tmp_path, dataset="torch/cifar10")


# --- Hugging Face ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hugging_face(tmp_path):
    """Write splits of a local data set as parquet; options to read it."""
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face's datasets: pip install datasets")
    datasets.disable_progress_bars()

    def write(labels=(0, 1, 0, 1), names=("cat", "dog"), column="label", splits=("train", "test")):
        feature = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
        features = datasets.Features({"image": datasets.Image(), column: feature})
        for split in splits:
            images = [{"bytes": png(seed), "path": None} for seed in range(len(labels))]
            made = datasets.Dataset.from_dict({"image": images, column: list(labels)}, features=features)
            (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
            made.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
        return {"dataset": f"hfds/{tmp_path / 'set'}", "root": tmp_path / "cache"}

    return write


def test_hugging_face_set(hugging_face):
    source = read(**hugging_face(), test_split="test")
    assert source.names == ("cat", "dog")
    assert classes_of(source) == classes_of(source, "test") == ["cat", "dog", "cat", "dog"]
    assert source.test.ids[3] == "test/3"
    np.testing.assert_array_equal(pixels(source.train.fetch(2)), noise(1, seed=2)[0])


def test_hugging_face_column_without_images(hugging_face):
    with pytest.raises(DataError, match=r"data\.input_key: no image in the column 'photo'; there are 'image', "):
        read(**hugging_face(), input_key="photo")


def test_hugging_face_split_may_be_a_slice(hugging_face):
    assert len(read(**hugging_face(), train_split="train[:50%]").train) == 2


def test_hugging_face_set_without_names(hugging_face, tmp_path):
    options = hugging_face(names=None, column="fine")
    with pytest.raises(DataError, match=r"no column 'label'; there are 'image', 'fine'"):
        read(**options)
    with pytest.raises(DataError, match=r"bring no class names; give data\.classes: a list, or a text file"):
        read(**options, target_key="fine")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    source = read(**options, target_key="fine", classes=str(tmp_path / "names.txt"))
    assert (source.names, classes_of(source)) == (("cat", "dog"), ["cat", "dog", "cat", "dog"])


def test_hugging_face_labels_out_of_range(hugging_face):
    with pytest.raises(DataError, match=r"train sample 2 has the label -1, but there are 2 classes \(0\.\.1\)"):
        read(**hugging_face(labels=(0, 1, -1)))


def test_hugging_face_rows_that_cannot_be_read_are_named(hugging_face, monkeypatch):
    source = read(**hugging_face())
    reader = source.train.dataset.reader
    broken = {0: (io.BytesIO(b"no image"), 0), 1: (io.BytesIO(png(1)), 1)}
    monkeypatch.setattr(type(reader), "__getitem__", lambda self, index: broken.get(index) or Path("nowhere").read_bytes())
    with pytest.raises(DataError, match="unreadable image train/0: cannot identify image file"):
        source.train.fetch(0)
    np.testing.assert_array_equal(pixels(source.train.fetch(1)), noise(1, seed=1)[0])
    with pytest.raises(DataError, match="unreadable image train/2: .*No such file"):
        source.train.fetch(2)


def test_hugging_face_hub_is_not_asked_unless_told():
    pytest.importorskip("datasets", reason="needs Hugging Face's datasets: pip install datasets")
    with pytest.raises(DataError, match=r"someone/birds is not a folder on this machine; data\.download=true fetches it"):
        read(dataset="hfds/someone/birds")


def test_hugging_face_empty_split(hugging_face):
    with pytest.raises(DataError, match=r"timm cannot read the split 'test\[:0\]' of .*no data"):
        read(**hugging_face(), test_split="test[:0]")


def test_hugging_face_unknown_split(hugging_face):
    with pytest.raises(DataError, match="timm cannot read the split 'trian' of .*Unknown split"):
        read(**hugging_face(), train_split="trian")


def test_a_run_on_a_hugging_face_set(hugging_face, tmp_path):
    options = hugging_face(labels=[0, 1] * 8)
    recipe = {
        "epochs": 1,
        "data": {"name": "timm", "dataset": options["dataset"], "root": str(options["root"]), "image_size": 16, "batch_size": 4, "val": 2},
        "hierarchy": {"nested": {"animal": ["cat", "dog"]}},
        "model": {"backbone": "alexnet_bn"},
        "train": {"precision": "float32", "device": "cpu"},
        "logging": {"display": "quiet"},
    }
    run = hiercnn.fit(recipe, run_dir=tmp_path / "run")
    assert run.hierarchy.classes == ("cat", "dog")
    assert run.finished


# --- webdataset -----------------------------------------------------------------------------------------------------------------------


def shards(root: Path, splits=("train",), **members) -> Path:
    """Two shards of two samples a split, and an info file."""
    info = {"splits": {}}
    for split in splits:
        names = [f"{split}-{number}.tar" for number in range(2)]
        for number, name in enumerate(names):
            samples = {f"{number}{i}.png": png(2 * number + i) for i in range(2)} | {f"{number}{i}.cls": str(i).encode() for i in range(2)}
            tar(root / name, samples | members)
        info["splits"][split] = {"name": split, "filenames": names, "shard_lengths": [2, 2], "num_samples": 4}
    (root / "info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def webdataset():
    pytest.importorskip("webdataset", reason="needs webdataset: pip install webdataset")


@pytest.mark.usefixtures("webdataset")
class TestShards:
    def test_by_name_and_by_pattern(self, tmp_path):
        root = shards(tmp_path, ("train", "val"))
        for train in ("train", "train-{0..1}.tar"):
            source = read(root, dataset="wds/", train_split=train, val_split="val", classes=["cat", "dog"])
            assert classes_of(source) == classes_of(source, "val") == ["cat", "dog", "cat", "dog"]
            assert source.train.ids == ["00", "01", "10", "11"]
            np.testing.assert_array_equal(pixels(source.train.fetch(3)), noise(1, seed=3)[0])

    def test_names_in_the_info_file(self, tmp_path):
        info = json.loads((shards(tmp_path) / "info.json").read_text()) | {"classes": ["cat", "dog"]}
        (tmp_path / "info.json").write_text(json.dumps(info))
        assert read(tmp_path, dataset="wds/").names == ("cat", "dog")

    def test_labels_in_json(self, tmp_path):
        samples = {"a/1.png": png(0), "a/1.json": b'{"kind": 1}', "b/1.png": png(1), "b/1.json": b'{"kind": 0}'}
        tar(tmp_path / "train.tar", samples)
        source = read(tmp_path, dataset="wds/", train_split="train.tar", target_key="kind", classes=["cat", "dog"])
        assert dict(zip(source.train.ids, classes_of(source), strict=True)) == {"a/1": "dog", "b/1": "cat"}

    def test_samples_are_read_again_in_any_order(self, tmp_path):
        data = prepare(read(shards(tmp_path), dataset="wds/", classes=["cat", "dog"]), None, settings(val=1, image_size=8), 0)
        loader = make_loader(data.train, settings(batch_size=2, image_size=8), train=True, channels=3)
        epochs = [{i: image for b in loader.epoch(e) for i, image in zip(b.indices.tolist(), b.images, strict=True)} for e in (0, 1)]
        assert all(torch.equal(epochs[0][i], epochs[1][i]) for i in range(2))

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"x.png": png(0)}, "sample 'x' has no label: wanted a cls file"),
            ({"x.png": png(0), "x.cls": b"cat"}, "sample 'x' has no label: wanted a cls file"),
            ({"x.txt": b"a cat", "x.cls": b"0"}, r"sample 'x' has no image \(jpg, png, webp\); data\.input_key"),
            ({"x.png": png(0), "x.cls": b"2"}, r"train sample 2 has the label 2, but there are 2 classes \(0\.\.1\)"),
        ],
    )
    def test_bad_samples(self, tmp_path, members, message):
        with pytest.raises(DataError, match=message):
            read(shards(tmp_path, **members), dataset="wds/", classes=["cat", "dog"])

    def test_bad_shards(self, tmp_path):
        options = {"dataset": "wds/", "classes": ["cat", "dog"]}
        with pytest.raises(DataError, match="timm cannot read the split 'test' of 'wds/' in .*split test not found in info"):
            read(shards(tmp_path), **options, train_split="test")
        with pytest.raises(DataError, match=r"cannot read shard .*none\.tar: No such file"):
            read(tmp_path, **options, train_split="none.tar")
        tar(tmp_path / "packed.tar", {"1.png": png(0)}, "w:gz")
        with pytest.raises(DataError, match=r"cannot read shard .*packed\.tar: .*not compressed"):
            read(tmp_path, **options, train_split="packed.tar")
        with pytest.raises(DataError, match="bring no class names"):
            read(tmp_path, dataset="wds/")

    def test_info_cannot_name_a_command(self, tmp_path):
        info = json.loads((shards(tmp_path) / "info.json").read_text())
        info["splits"]["train"]["filenames"] = [f"pipe:touch {tmp_path / 'touched'}"]
        (tmp_path / "info.json").write_text(json.dumps(info))
        with pytest.raises(DataError, match="cannot read shard"):
            read(tmp_path, dataset="wds/", classes=["cat", "dog"])
        assert not (tmp_path / "touched").exists()


# --- Streams (TensorFlow's data sets, here a stand-in for timm's reader) -----------------------------------------------------------------


class Stream:
    """What create_dataset gives for tfds/, as far as it is used: a reader to go through, with class names."""

    class_to_idx = {"dog": 1, "cat": 0}

    def __init__(self):
        self.reader = self

    def __iter__(self):
        return ((Image.fromarray(noise(1, seed=seed)[0].transpose(1, 2, 0)), seed % 2) for seed in range(4))


@pytest.fixture
def stream(monkeypatch):
    monkeypatch.setitem(timm_sets.PACKAGES, "tfds", ("json", "tensorflow-datasets"))  # as if it were installed
    monkeypatch.setattr("timm.data.create_dataset", lambda *_, **__: Stream())
    return {"dataset": "tfds/birds", "root": "."}


def test_empty_streams_are_refused(stream, monkeypatch):
    monkeypatch.setattr(Stream, "__iter__", lambda self: iter(()))
    with pytest.raises(DataError, match="the train split is empty"):
        read(**stream)


def test_streams_are_read_through_once(stream):
    source = read(**stream)
    assert (source.names, classes_of(source)) == (("cat", "dog"), ["cat", "dog", "cat", "dog"])
    np.testing.assert_array_equal(pixels(source.train.fetch(3)), noise(1, seed=3)[0])


def test_streams_that_take_too_much_memory_are_refused(stream, monkeypatch):
    monkeypatch.setattr(timm_sets, "STREAM_LIMIT", 3 * 8 * 8 * 4 - 1)
    with pytest.raises(DataError, match="train split takes more than .* of memory; write its images to files and list them in"):
        read(**stream)

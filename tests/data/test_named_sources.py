"""Data sets by name: what each layout gives, and what is said about what is missing or wrong."""

from pathlib import Path

import numpy as np
import pytest
from pictures import save, save_all, settings

from hiercnn.data import _synthetic_source as synthetic_source
from hiercnn.data import data_sets, prepare
from hiercnn.data._synthetic import CLASSES
from hiercnn.errors import DataError, RecipeError
from hiercnn.hierarchy import from_nested


def of_split(source, split: str) -> dict[str, str]:
    """Class name by id."""
    image_set = getattr(source, split)
    return {image: source.names[label] for image, label in zip(image_set.ids, image_set.labels, strict=True)}


# --- Synthetic ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The smallest synthetic data set, cached in a folder of the test."""
    monkeypatch.setenv("HIERCNN_CACHE", str(tmp_path / "cache"))
    return lambda: data_sets["synthetic"](render_train=1, render_test=1, render_size=16)


def no_rendering(*_):
    raise AssertionError("rendered again")


def test_synthetic_is_drawn_once_then_read(shapes, monkeypatch):
    drawn = shapes()
    monkeypatch.setattr(synthetic_source, "render", no_rendering)
    again = shapes()
    assert drawn.names == CLASSES
    assert (drawn.train.images == again.train.images).all()
    assert (drawn.train.images != drawn.test.images).any()
    assert drawn.train.labels.tolist() == again.test.labels.tolist() == list(range(36))


def test_synthetic_options_have_caches_of_their_own(shapes):
    shapes()
    assert len(data_sets["synthetic"](render_train=2, render_test=1, render_size=16).train) == 72
    assert data_sets["synthetic"](render_train=1, render_test=1, render_size=20).train.images.shape[-1] == 20


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"not numpy", lambda b: b[:-100], lambda b: b[:1000] + b"\0" * 50 + b[1050:]])
def test_damaged_cache_is_drawn_again(shapes, tmp_path, damage):
    drawn = shapes()
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(damage(file.read_bytes()))
    again = shapes()
    assert (again.train.images == drawn.train.images).all()
    assert (shapes().test.images == drawn.test.images).all()


def test_cache_that_cannot_be_written_is_no_error(shapes, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(shapes().train) == 36


def test_cache_without_write_permission_is_no_error(shapes, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(synthetic_source.np, "savez", refuse)
    assert len(shapes().train) == 36
    assert not list((tmp_path / "cache").iterdir())


# --- Folder ---------------------------------------------------------------------------------------------------------------------------


def test_folder_without_splits(tmp_path):
    source = data_sets["folder"](root=save_all(tmp_path, ["dog/1.png", "cat/2.JPG", "cat/a.webp"]))
    assert source.names == ("cat", "dog")
    assert of_split(source, "train") == {"cat/2.JPG": "cat", "cat/a.webp": "cat", "dog/1.png": "dog"}
    assert (source.val, source.test, source.inner_labels) == (None, None, False)


def test_folder_with_splits_and_depth(tmp_path):
    source = data_sets["folder"](
        root=save_all(tmp_path, ["train/pet/cat/1.png", "train/wild/big/wolf/1.png", "val/cat/2.png", "test/x/wolf/3.png"])
    )
    assert source.names == ("cat", "wolf")
    assert of_split(source, "train") == {"train/pet/cat/1.png": "cat", "train/wild/big/wolf/1.png": "wolf"}
    assert of_split(source, "val") == {"val/cat/2.png": "cat"}
    assert of_split(source, "test") == {"test/x/wolf/3.png": "wolf"}


def test_folder_passes_over_hidden_files_and_other_files(tmp_path):
    save_all(tmp_path, ["cat/1.png", "cat/.1.png", "cat/.ipynb_checkpoints/1.png", ".trash/dog/1.png"])
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    assert list(of_split(data_sets["folder"](root=tmp_path), "train")) == ["cat/1.png"]


def test_folder_with_an_empty_split_has_no_such_split(tmp_path):
    (save_all(tmp_path, ["train/cat/1.png"]) / "test" / "cat").mkdir(parents=True)
    assert data_sets["folder"](root=tmp_path).test is None


BAD_FOLDERS = {
    "missing": ([], "absent", r"data\.root: .*absent is not a folder; it should hold train/<class>/<image>"),
    "no images": (["cat/notes/readme.txt"], "", r"no images below .* \(looked for \.bmp, "),
    "no train images": (["train/readme.txt", "test/cat/1.png"], "", "no images below .*train "),
    "no train": (["test/cat/1.png", "val/cat/1.png"], "", "has val, test but no train folder"),
    "stranger": (
        ["train/cat/1.png", "train/dog/1.png", "val/cta/1.png"],
        "",
        "folder 'cta' is not one of the 2 classes; did you mean 'cat'",
    ),
}


@pytest.mark.parametrize(("files", "root", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_folders(tmp_path, files, root, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(DataError, match=message):
        data_sets["folder"](root=tmp_path / root)


# --- Manifest -------------------------------------------------------------------------------------------------------------------------


def manifest(folder, text: str | bytes, **options):
    file = folder / "list.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return data_sets["manifest"](file=file, **options)


def test_manifest_without_split_is_all_train(tmp_path):
    source = manifest(tmp_path, "\ufefflabel,path\ndog,a.png\n cat , b.png \n")
    assert source.names == ("cat", "dog")
    assert of_split(source, "train") == {"a.png": "dog", "b.png": "cat"}
    assert (source.val, source.test, source.inner_labels) == (None, None, True)
    assert source.train.paths == [tmp_path / "a.png", tmp_path / "b.png"]


def test_manifest_with_splits_and_root(tmp_path):
    source = manifest(tmp_path, "path,label,split\na,cat,train\nb,cat,val\nc,dog,test\nd,dog,\n", root=tmp_path / "images")
    assert of_split(source, "train") == {"a": "cat", "d": "dog"}
    assert of_split(source, "val") == {"b": "cat"}
    assert of_split(source, "test") == {"c": "dog"}
    assert source.test.paths == [tmp_path / "images" / "c"]


def test_manifest_labels_may_be_inner_nodes(tmp_path):
    rows = [f"{label}{i}.png,{label}" for label in ("wolf", "pet", "dog", "cat") for i in range(4)]
    source = manifest(save_all(tmp_path, [row.split(",")[0] for row in rows]), "\n".join(["path,label", *rows]))
    data = prepare(source, from_nested({"pet": ["cat", "dog"], "wolf": None}), settings(val=1, image_size=8), 0)
    assert data.hierarchy.classes == ("cat", "dog", "wolf")
    assert data.inner_labels
    coarse = [i for i, label in zip(data.train.ids, data.train.labels, strict=True) if label == data.hierarchy.label("pet")]
    assert coarse == ["pet0.png", "pet1.png", "pet2.png", "pet3.png"]


def test_manifest_takes_quoted_cells(tmp_path):
    assert of_split(manifest(tmp_path, 'path,label\n"a, b.png","cat\u2028s"\n'), "train") == {"a, b.png": "cat\u2028s"}


BAD_MANIFESTS = {
    "missing column": (
        "path,lable\na,cat\n",
        r"list\.csv lacks the column 'label'; did you mean 'lable'\?; wanted path,label\[,split\], found 'path', 'lable'",
    ),
    "empty file": ("", "lacks the column 'label'; .* found nothing"),
    "no rows": ("path,label\n", "no row belongs to the split 'train'"),
    "no train rows": ("path,label,split\na,cat,test\n", "no row belongs to the split 'train'"),
    "bad split": ("path,label,split\na,cat,train\n\nb,cat,valid\n", r"line 4: needs a path, a label and a split .*got 'b', 'cat', 'valid'"),
    "empty label": ("path,label\na,\n", "line 2: needs a path, a label"),
    "short row": ("path,label\na\n", "line 2: needs a path, a label"),
    "not UTF-8": (b"path,label\na,cat\nb,\xe9t\xe9\n", r"is not UTF-8 \(line 3\); save it as UTF-8"),
    "quote never closed": ('path,label\n"a,cat\n' + "b,cat\n" * 30_000, "line .*: field larger than .*; look for a quotation mark"),
    "two labels": ("path,label\na,cat\nb,dog\na,dog\n", "line 4: a has the labels 'cat' and 'dog'; multi-label data are not supported"),
}


@pytest.mark.parametrize(("text", "message"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifests(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        manifest(tmp_path, text)


def test_missing_manifest(tmp_path):
    with pytest.raises(DataError, match=r"cannot read manifest .*none\.csv: No such file"):
        data_sets["manifest"](file=tmp_path / "none.csv")


def test_missing_relative_manifest_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        data_sets["manifest"](file=Path("photos/none.csv"))
    assert f"cannot read manifest photos/none.csv: No such file or directory in {tmp_path}; start where it is" in str(caught.value)


# --- The registry ---------------------------------------------------------------------------------------------------------------------


def test_unknown_data_set_suggests():
    with pytest.raises(RecipeError, match=r"unknown data set 'cifar-100'; did you mean 'cifar100'\?; there are cifar10, cifar100, "):
        data_sets["cifar-100"]


def test_python_data_cannot_be_read_by_name():
    with pytest.raises(DataError, match=r"came from Python; call hiercnn\.fit"):
        data_sets["python"]()


def test_saved_image_comes_back(tmp_path):
    """The files of these tests hold what they should; a folder read into memory gives their pixels."""
    save(tmp_path / "cat" / "1.png", seed=1)
    save_all(tmp_path, ["cat/2.png", "dog/1.png", "dog/2.png"])
    data = prepare(data_sets["folder"](root=tmp_path), None, settings(val=1, image_size=8), 0)
    stored = {image: tuple(pixels[:, 0, 0].tolist()) for s in (data.train, data.val) for image, pixels in zip(s.ids, s.images, strict=True)}
    firsts = [
        tuple(np.random.default_rng(seed).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)[0, :, 0, 0].tolist()) for seed in (1, 0, 1, 2)
    ]
    assert stored == dict(zip(["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"], firsts, strict=True))


# --- Class folders that would be read wrongly -----------------------------------------------------------------------------------------


def test_an_image_outside_class_folders_is_refused(tmp_path):
    save_all(tmp_path, ["train/a/1.png", "train/b/2.png", "train/3.png"])
    with pytest.raises(DataError, match="train holds images outside class folders"):
        data_sets["folder"](root=tmp_path)


def test_two_class_folders_of_one_name_are_refused(tmp_path):
    save_all(tmp_path, ["fish/orange/1.png", "fruit/orange/2.png"])
    with pytest.raises(DataError, match="two class folders are called 'orange': fish/orange and fruit/orange"):
        data_sets["folder"](root=tmp_path)


def test_links_to_class_folders_are_followed(tmp_path):
    save_all(tmp_path, ["elsewhere/a/1.png", "root/b/2.png"])
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    assert data_sets["folder"](root=tmp_path / "root").names == ("a", "b")


def test_an_image_in_two_splits_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("path,label,split\n1.png,a,train\n2.png,b,train\n1.png,a,test\n")
    with pytest.raises(DataError, match=r"line 4: 1\.png stands in train and in test"):
        data_sets["manifest"](file=tmp_path / "m.csv")


@pytest.mark.parametrize("again", ["1.png", "./1.png"])
def test_an_image_listed_twice_is_refused(tmp_path, again):
    (tmp_path / "m.csv").write_text(f"path,label\n1.png,a\n2.png,b\n{again},a\n")
    with pytest.raises(DataError, match="line 4: .*1.png is listed already, in line 2"):
        data_sets["manifest"](file=tmp_path / "m.csv")

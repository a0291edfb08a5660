"""Feed damaged and hostile files to everything that reads files: nothing but our named errors may come out, and nothing may be run.

    python tools/fuzz.py --cases 10000

Of each format good files are made. Half of the cases are damaged as bytes (flipped, cut, doubled, swapped with parts of themselves,
numbers and keywords of the format put in). Half are damaged behind what would notice that: values of JSON and YAML documents are
exchanged, members of archives damaged and packed again with the right checksums, arrays replaced by others, or by a pickle that makes a
folder. Counted are cases that were read and cases that were refused with a named error. Anything else is a failure, as is a file written
outside the run folder, a process, a connection, or a pickle that is loaded: the file is kept in --keep, its traceback printed, and the
exit code is 1. Case n of a format is the same in every call (--first n --cases 1); those that have failed are tests.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import logging
import os
import random
import sys
import tarfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save
from timm.layers import ConvNormAct
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

import hiercnn
from hiercnn.clustering import ClassStatistics, Dendrogram, cluster, vector_distances
from hiercnn.compare import markdown, table
from hiercnn.compare._compare import _keep_other
from hiercnn.data import data_sets, match, open_image
from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import builtin, read_cuts, read_hierarchy, save_hierarchy, to_nested
from hiercnn.inference import load_exported
from hiercnn.models import pretrained_config
from hiercnn.models._plain import SmallNet
from hiercnn.models._weights import read_weights
from hiercnn.recipe import (
    Run,
    build_data,
    build_source,
    build_trainer,
    calibrate_run,
    export_run,
    kept_dynamics,
    load_recipe,
    push_run,
    to_yaml,
)
from hiercnn.recipe._views import kept_responses
from hiercnn.report._evaluations import kept_evaluations
from hiercnn.report._faults import faults
from hiercnn.report._overview import comparison, sentences
from hiercnn.train import QuietDisplay, load_weights
from hiercnn.train._checkpoint import load_training_state
from hiercnn.train._environment import describe_environment

CANARY = "hiercnn-canary"
WORDS = [
    "null",
    "-1",
    "0",
    "1e309",
    "NaN",
    "true",
    "[]",
    "{}",
    '""',
    ",",
    "\n",
    "\0",
    "9" * 30,
    "../../x",
    f"!!python/object/apply:os.mkdir [{CANARY}]",
]
PIECES = [*map(str.encode, WORDS), b"\xff\xfe", b"[" * 3000, b'{"x":' * 3000]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**40,
    10**30,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "../../x",
    "/",
    "leaf",
    [],
    [[]],
    {},
    [1, "a"],
    {"x": 1},
]
RECIPE = {
    "name": "fuzz",
    "epochs": 2,
    "hierarchy": {"builtin": "synthetic", "cuts": [3, 9]},
    "data": {"name": "synthetic", "render_train": 4, "render_test": 2, "render_size": 16, "val": 1, "batch_size": 36},
    "model": {"backbone": "fuzz_net", "heads": [{"stage": "early", "cut": 3, "weight": 0.5}]},
    "train": {"device": "cpu", "precision": "float32"},
    "eval": {"predictions": True},
    "dynamics": {"random": 1},
    "logging": {"display": "quiet"},
}


CONFIG = {"input_size": (3, 16, 16), "first_conv": "stages.0.0.conv", "classifier": "fc"}
default_cfgs = generate_default_cfgs({"fuzz_net.untrained": CONFIG})


@register_model
def fuzz_net(pretrained: bool = False, **options):
    """Two convolutions: what reads it costs more than it does."""
    return build_model_with_cfg(SmallNet, "fuzz_net", pretrained, build_stages=_stages, reductions=(2, 4), **options)


def _stages(in_chans: int):
    return [[ConvNormAct(in_chans, 8, 3, stride=2)], [ConvNormAct(8, 16, 3, stride=2)]]


class Known(Run):
    """A run whose recipe, which is not the file that is damaged, is read once."""

    recipe = cached_property(Run.recipe.fget)


class Hostile:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, (CANARY,)

    def __deepcopy__(self, memo):
        return self  # a copy would be made as a pickle is read


# ---- damage


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes with one to four faults."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(data) + 1), draw.randint(1, max(1, len(data) // 8))
        fault = draw.randrange(6)
        if fault == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif fault == 1:
            del data[at : at + size]
        elif fault == 2:
            data[at:at] = data[at : at + size]
        elif fault == 3:
            data[at : at + draw.randint(0, 6)] = draw.choice(PIECES)
        elif fault == 4:
            other = draw.randrange(len(data) + 1)
            data[at : at + size] = data[other : other + size]
        else:
            del data[at:]
    return bytes(data)


def _places(document: object) -> Iterator[tuple[object, object]]:
    """Every place in a document: what holds it, and its key there."""
    for key, value in list(document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()):
        yield document, key
        yield from _places(value)


def changed(document: object, draw: random.Random, values: list = VALUES) -> object:
    """A document with one to three of its values exchanged, left out, renamed or doubled."""
    for _ in range(draw.randint(1, 3)):
        places = list(_places(document))
        if not places:
            return deepcopy(draw.choice(values))
        holder, key = draw.choice(places)
        fault = draw.randrange(5)
        if fault < 2:
            holder[key] = deepcopy(draw.choice(values))  # or the next fault would change the list for all cases
        elif fault == 2:
            other, its = draw.choice(places)
            with suppress(LookupError):  # it has gone with an earlier fault
                holder[key] = _copy(other[its])
        elif fault == 3:
            del holder[key]
        elif isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        else:
            holder.append(_copy(holder[key]))
    return document


def _copy(value: object) -> object:
    return value if isinstance(value, torch.Tensor) else json.loads(json.dumps(value, default=str))


def damaged_json(content: bytes, draw: random.Random) -> bytes:
    return json.dumps(changed(json.loads(content), draw)).encode()


def damaged_lines(content: bytes, draw: random.Random) -> bytes:
    """JSON documents, one a line."""
    events = changed([json.loads(line) for line in content.splitlines()], draw)
    return "".join(f"{json.dumps(event)}\n" for event in (events if isinstance(events, list) else [events])).encode()


def damaged_yaml(content: bytes, draw: random.Random) -> bytes:
    return yaml.safe_dump(changed(yaml.safe_load(content), draw), allow_unicode=True).encode()


def damaged_cells(content: bytes, draw: random.Random) -> bytes:
    """A CSV file."""
    rows = changed(list(csv.reader(io.StringIO(content.decode(), newline=""))), draw)
    text = io.StringIO()
    csv.writer(text).writerows(row if isinstance(row, list) else [row] for row in (rows if isinstance(rows, list) else [rows]))
    return text.getvalue().encode(errors="replace")


def _odd_array(array: np.ndarray, draw: random.Random) -> np.ndarray:
    """Another array in the place of this one."""
    kinds = [
        lambda: np.array([Hostile()], dtype=object),
        lambda: array.reshape(-1)[:0],
        lambda: array[: len(array) // 2] if array.ndim else array,
        lambda: array.reshape(-1),
        lambda: array[None],
        lambda: array.astype(draw.choice(["f2", "f8", "i1", "u8", "U8", "?", "c16"])),
        lambda: np.array(draw.choice([-1, 10**6, 0.5, np.nan, "x", True])),
        lambda: np.full_like(array, draw.choice([-1, 0, 1, 120])) if array.dtype.kind in "fiu" else array,
        lambda: np.full(array.shape, draw.choice([np.nan, np.inf, -1e300, 7])),
    ]
    return draw.choice(kinds)()


def damaged_archive(content: bytes, draw: random.Random) -> bytes:
    """A zip file with one member damaged or left out, or an array exchanged, packed again with the right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: (info.compress_type, archive.read(info)) for info in archive.infolist()}
    name = draw.choice(sorted(members))
    packing, inner = members[name]
    fault = draw.randrange(6)
    if fault == 0:
        del members[name]
    elif name.endswith(".npy") and fault < 4:
        buffer = io.BytesIO()
        with suppress(ValueError, TypeError):  # texts are no numbers
            np.save(buffer, _odd_array(np.load(io.BytesIO(inner)), draw), allow_pickle=True)
        members[name] = packing, buffer.getvalue()
    elif name.endswith(".json") and fault < 5:
        members[name] = packing, damaged_json(inner, draw)
    else:
        members[name] = packing, damaged(inner, draw)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, (packing, inner) in members.items():
            archive.writestr(name, inner, packing)
    return buffer.getvalue()


def damaged_tensors(content: bytes, draw: random.Random) -> bytes:
    """What torch.save has written, with values exchanged, or a pickle that runs something."""
    odd = [*VALUES, torch.zeros(0), torch.full((3,), torch.nan), torch.arange(5), torch.zeros(2, 2, dtype=torch.complex64)]
    state = torch.load(io.BytesIO(content), weights_only=True)
    state = changed(state, draw, [*odd, Hostile()] if draw.random() < 0.1 else odd)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def damaged_safetensors(content: bytes, draw: random.Random) -> bytes:
    """The header's document damaged, its length put right."""
    size = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + size])
    facts = json.loads(document.get("__metadata__", {}).get("hiercnn", "{}"))
    if facts and draw.random() < 0.5:
        document["__metadata__"]["hiercnn"] = json.dumps(changed(facts, draw))
    else:
        document = changed(document, draw)
    header = json.dumps(document).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def damaged_packed(content: bytes, draw: random.Random) -> bytes:
    return gzip.compress(damaged(gzip.decompress(content), draw), 1, mtime=0)


def damaged_matrix(content: bytes, draw: random.Random) -> bytes:
    """An .npy file with some of its numbers exchanged."""
    matrix = np.load(io.BytesIO(content))
    for _ in range(draw.randint(1, 3)):
        matrix[draw.randrange(len(matrix)), draw.randrange(matrix.shape[1])] = draw.choice([0, 1, -1, 0.5, np.nan, np.inf, 1e300, 5, 40])
    buffer = io.BytesIO()
    np.save(buffer, matrix if draw.random() < 0.8 else _odd_array(matrix, draw), allow_pickle=True)
    return buffer.getvalue()


# ---- formats


@dataclass
class Format:
    """A good file, what reads it, and how it is damaged behind its checksums."""

    file: Path
    read: Callable[[Path], object]
    inside: Callable[[bytes, random.Random], bytes] = damaged

    def __post_init__(self):
        self.content = self.file.read_bytes()

    def case(self, name: str, number: int) -> bytes:
        """The damaged file of this number."""
        draw = random.Random(f"{name} {number}")
        return (self.inside if draw.random() < 0.5 else damaged)(self.content, draw)


def formats(folder: Path) -> dict[str, Format]:
    """Good files of every format, made in a folder."""
    folder.mkdir(exist_ok=True)
    run = hiercnn.fit(RECIPE, run_dir=folder / "run")
    return (
        hierarchies(folder)
        | recipes(folder)
        | images(folder)
        | of_data(folder)
        | of_run(run.path)
        | weights(folder, run)
        | exported(folder, run)
    )


def hierarchies(folder: Path) -> dict[str, Format]:
    tree = builtin("synthetic")
    save_hierarchy(tree, folder / "tree.json")
    (folder / "tree.yaml").write_text(yaml.safe_dump(to_nested(tree)), encoding="utf-8")
    edges = [f"{tree.names[parent]},{name}" for name, parent in zip(tree.names, tree.parents, strict=True) if parent >= 0]
    (folder / "edges.csv").write_text("\n".join(["parent,child", *edges]) + "\n", encoding="utf-8")
    above = [[tree.names[node] for node in tree.ancestors(leaf)[1:-1]] for leaf in tree.leaf_nodes]
    rows = [",".join([*nodes, name]) for nodes, name in zip(above, tree.classes, strict=True)]
    (folder / "levels.csv").write_text("\n".join(["group,kind,class", *rows]) + "\n", encoding="utf-8")
    means = torch.randn(len(tree.classes), 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.save(folder / "linkage.npy", cluster(vector_distances(means, "cosine", list(tree.classes)), "average").merges)
    kinds = {"tree.json": damaged_json, "tree.yaml": damaged_yaml, "edges.csv": damaged_cells, "levels.csv": damaged_cells}
    found = {name: Format(folder / name, read_hierarchy, kind) for name, kind in kinds.items()}
    return found | {"linkage.npy": Format(folder / "linkage.npy", _linkage, damaged_matrix)}


def _linkage(file: Path) -> None:
    try:
        merges = np.load(file, allow_pickle=False)
    except Exception:  # numpy's own: hiercnn reads no such file, it takes the matrix
        return
    dendrogram = Dendrogram(merges)
    classes = [f"class {number}" for number in range(dendrogram.num_classes)]
    _ = dendrogram.hierarchy(classes), dendrogram.hierarchy(classes, [2, 5]), dendrogram.cophenetic()


def recipes(folder: Path) -> dict[str, Format]:
    (folder / "recipe.yaml").write_text(to_yaml(load_recipe(RECIPE)), encoding="utf-8")
    return {"recipe.yaml": Format(folder / "recipe.yaml", load_recipe, damaged_yaml)}


def images(folder: Path) -> dict[str, Format]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = {}
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tiff"):
        Image.fromarray(pixels).save(folder / f"image.{suffix}")
        found[f"image.{suffix}"] = Format(folder / f"image.{suffix}", lambda file: open_image(file).load())
    return found


def of_data(folder: Path) -> dict[str, Format]:
    """Lists and packed files that data sets are read from."""
    tree, (fashion, shards) = builtin("synthetic"), (folder / name for name in ("fashion", "shards"))
    rows = [f"{name}/{number}.png,{name},{split}" for name in tree.classes for number, split in enumerate(("train", "val", "test"))]
    (folder / "manifest.csv").write_text("\n".join(["path,label,split", *rows]) + "\n", encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(tree.classes) + "\n", encoding="utf-8")
    fashion.mkdir()
    draw = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        sizes = {"images-idx3": (20, 28, 28), "labels-idx1": (20,)}
        for name, shape in sizes.items():
            header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
            content = header + draw.integers(0, 10, shape, dtype=np.uint8).tobytes()
            (fashion / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(content, 1, mtime=0))
    shards.mkdir()
    with tarfile.open(shards / "train.tar", "w") as archive:
        for number in range(6):
            buffer = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
            for ending, content in (("png", buffer.getvalue()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return {
        "manifest.csv": Format(folder / "manifest.csv", lambda file: data_sets["manifest"](file=file), damaged_cells),
        "classes.txt": Format(folder / "classes.txt", lambda file: _shards(shards, str(file))),
        "images-idx3.gz": Format(
            fashion / "train-images-idx3-ubyte.gz", lambda file: data_sets["fashion_mnist"](root=fashion), damaged_packed
        ),
        "labels-idx1.gz": Format(
            fashion / "train-labels-idx1-ubyte.gz", lambda file: match(data_sets["fashion_mnist"](root=fashion), None), damaged_packed
        ),
        "shard.tar": Format(shards / "train.tar", lambda file: _opened(_shards(shards, ["cat", "dog"]))),
    }


def _shards(root: Path, classes):
    return data_sets["timm"](root=root, dataset="wds/", train_split="train.tar", classes=classes)


def _opened(source) -> None:
    for index in range(len(source.train)):
        source.train.dataset[index][0].load()


def of_run(path: Path) -> dict[str, Format]:
    """What lies in a run folder, read as the commands read it."""
    run = Known(path)
    calibrate_run(run)
    calibration = next((path / "calibration").glob("*.json"))
    judged = path / "diagnose" / "test"
    judged.mkdir(parents=True)
    (judged / "mislabel.csv").write_text("rank,score,split,image,label,predicted,other_image,sentence\n1,0.5,test,3,a,b,,looks like b\n")
    (judged / "facts.json").write_text(json.dumps({"run": run.digest}))
    statistics = ClassStatistics(3, 4).update(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)
    statistics.save(path / "statistics.npz")
    moment = min((path / "dynamics" / "live").glob("*.npz"))
    trainer = build_trainer(run.recipe, build_data(run.recipe, build_source(run.recipe), run.hierarchy), run, display=QuietDisplay())
    model = run.load_model()

    def restored(file: Path) -> None:
        trainer._restore(load_training_state(file, run.hierarchy))

    result = {"recipes": {"fuzz": {"runs": [{"path": "fuzz-seed0"}]}}}
    (path / "compare.json").write_text(json.dumps(result))

    return {
        "metrics.jsonl": Format(run.metrics_file, lambda file: seen(run), damaged_lines),
        "hierarchy.json": Format(run.hierarchy_file, lambda file: read_cuts(file, read_hierarchy(file)), damaged_json),
        "recipe of a run": Format(run.recipe_file, lambda file: Run(path).recipe, damaged_yaml),
        "environment.json": Format(path / "environment.json", lambda file: environment(run), damaged_json),
        "state.pt": Format(run.checkpoints / "state.pt", restored, damaged_tensors),
        "archive of state.pt": Format(run.checkpoints / "state.pt", restored, damaged_archive),
        "last.safetensors": Format(
            run.checkpoints / "last.safetensors", lambda file: load_weights(file, model, run.hierarchy), damaged_safetensors
        ),
        "val.npz": Format(run.predictions / "val.npz", lambda file: evaluated(run, calibration), damaged_archive),
        "val-epoch.npz": Format(run.predictions / "val-epoch-0001.npz", lambda file: kept_evaluations(run, run.hierarchy), damaged_archive),
        "compare.json": Format(path / "compare.json", lambda file: compared_again(file, result), damaged_json),
        "calibration.json": Format(calibration, lambda file: calibrate_run(run), damaged_json),
        "moment.npz": Format(moment, lambda file: kept_dynamics(run), damaged_archive),
        "means.npz": Format(path / "dynamics" / "means.npz", lambda file: kept_responses(run), damaged_archive),
        "findings.csv": Format(judged / "mislabel.csv", lambda file: faults(run), damaged_cells),
        "facts.json": Format(judged / "facts.json", lambda file: faults(run), damaged_json),
        "statistics.npz": Format(path / "statistics.npz", ClassStatistics.load, damaged_archive),
    }


def seen(run: Run) -> None:
    """What everybody reads of a run's events."""
    _ = run.finished, run.failed, run.metrics, run.end, run.start, run.channels
    result = comparison([run]).result
    if result is not None:
        _ = table(result), markdown(result), sentences(result)


def environment(run: Run) -> None:
    file = run.path / "environment.json"
    content = file.read_bytes()
    run.note_resume({"device": "x"})
    file.write_bytes(content)
    markdown(comparison([run]).result)


def compared_again(file: Path, result: dict) -> None:
    _keep_other(file.parent, result)
    (file.parent / "compare-1.json").unlink(missing_ok=True)


def evaluated(run: Run, calibration: Path) -> None:
    kept_evaluations(run, run.hierarchy)
    calibration.unlink(missing_ok=True)
    calibrate_run(run)


def weights(folder: Path, run: Run) -> dict[str, Format]:
    """Files that a network may begin with."""
    push_run(run, folder=folder / "pushed")
    state = {key.removeprefix("backbone."): value for key, value in load_file(run.checkpoints / "last.safetensors").items()}
    torch.save(state, folder / "weights.pth")
    (folder / "weights.safetensors").write_bytes(save(state))
    return {
        "weights.pth": Format(folder / "weights.pth", lambda file: read_weights(str(file)), damaged_tensors),
        "weights.safetensors": Format(folder / "weights.safetensors", lambda file: read_weights(str(file)), damaged_safetensors),
        "config.json": Format(
            folder / "pushed" / "config.json", lambda file: pretrained_config("fuzz_net", f"local-dir:{file.parent}"), damaged_json
        ),
    }


def exported(folder: Path, run: Run) -> dict[str, Format]:
    """What `hiercnn export` writes; fingerprints are put right, so that damaged networks are looked at."""
    for kind in ("timm", "torch", "onnx"):
        export_run(run, kind, folder / kind, rule="auto")
    found = {"hiercnn.json": Format(folder / "timm" / "hiercnn.json", lambda file: load_exported(file.parent), damaged_json)}
    kinds = {"model.safetensors": ("timm", damaged_safetensors), "model.pt2": ("torch", damaged_archive), "model.onnx": ("onnx", damaged)}
    return found | {name: Format(folder / kind / name, _with_fingerprint, inside) for name, (kind, inside) in kinds.items()}


def _with_fingerprint(file: Path) -> None:
    manifest = file.parent / "hiercnn.json"
    values = json.loads(manifest.read_text(encoding="utf-8"))
    values["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(values), encoding="utf-8")
    load_exported(file.parent)


# ---- cases


class Broken(Exception):
    """Something was done that reading a file must not do."""


class Watch:
    """Sees what Python does while a file is read: writes outside a folder, processes, connections, pickles."""

    FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class", "ctypes.dlopen")
    CHANGING = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink")
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self, inside: Path):
        self.inside, self.active, self.seen = f"{inside.resolve()}{os.sep}", False, []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event in self.FORBIDDEN:
            self.seen.append(f"{event}{arguments[:2]!r}")
        elif event in self.CHANGING or (event == "open" and (arguments[2] or 0) & self.WRITING):
            self._check(event, arguments[0])

    def _check(self, event: str, path) -> None:
        if isinstance(path, int):  # a file that is open already
            return
        path = os.path.realpath(os.fsdecode(path))
        if not path.startswith((self.inside, "/dev/shm/pym-")) and path != os.devnull:  # multiprocessing's own shared memory
            self.seen.append(f"{event} {path}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.seen, self.active = [], True
        try:
            yield
        finally:
            self.active = False
        if self.seen:
            raise Broken("; ".join(self.seen))


def outcome(each: Format, content: bytes, watch: Watch) -> str:
    """`read` or `refused`; anything else is raised."""
    each.file.write_bytes(content)
    refused = False
    with watch.reading():
        try:
            each.read(each.file)
        except HierCNNError:
            refused = True
    return "refused" if refused else "read"


def fuzzed(name: str, each: Format, numbers: range, watch: Watch, keep: Path) -> dict[str, object]:
    """Counts of the cases of one format; the first file of each kind of failure is kept."""
    counts, kinds, began = {"read": 0, "refused": 0}, {}, time.monotonic()
    each.read(each.file)  # good as it is
    for number in numbers:
        content = each.case(name, number)
        try:
            counts[outcome(each, content, watch)] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            if kind not in kinds:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{number}-{name.replace(' ', '-')}").write_bytes(content)
                print(f"---- {name}, case {number}", file=sys.stderr)
                traceback.print_exc(limit=-7)
            kinds[kind] = kinds.get(kind, 0) + 1
    each.file.write_bytes(each.content)
    seconds = round(time.monotonic() - began)
    return {"format": name, "cases": len(numbers), **counts, "failures": sum(kinds.values()), "seconds": seconds, "kinds": kinds}


def write_row(file: Path, row: dict[str, object], facts: dict[str, object]) -> None:
    """Put a format's counts into a CSV file, in the place of those that are there."""
    rows = {}
    if file.exists():
        with open(file, newline="", encoding="utf-8") as opened:
            rows = {each["format"]: each for each in csv.DictReader(opened)}
    rows[row["format"]] = {key: value for key, value in row.items() if key != "kinds"} | facts
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, rows[row["format"]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of each format")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", nargs="*", help="formats; default: all")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that broke something")
    parser.add_argument("--csv", type=Path, help="file for the counts of each format")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    failures, keep, table_file = 0, options.keep.resolve(), options.csv and options.csv.resolve()
    environment = describe_environment(torch.device("cpu"), "float32", 0)
    facts = {"machine": environment["device"], "commit": environment["git"]}
    with TemporaryDirectory() as scratch:
        os.environ["HIERCNN_CACHE"] = f"{scratch}/work/cache"
        beside = Path(scratch) / "beside"
        beside.mkdir()
        os.chdir(beside)  # relative paths lead here
        found, watch = formats(Path(scratch) / "work"), Watch(Path(scratch) / "work")
        for name, each in found.items():
            if options.only and name not in options.only:
                continue
            row = fuzzed(name, each, range(options.first, options.first + options.cases), watch, keep)
            counts = ", ".join(f"{row[key]} {key}" for key in ("cases", "read", "refused", "failures"))
            print(f"{name}: {counts} {row['kinds'] or ''} ({row['seconds']} s)", flush=True)
            strange = [path.name for path in [*beside.iterdir(), *(p for p in Path(scratch).iterdir() if p.name not in ("work", "beside"))]]
            failures += row["failures"] + len(strange)
            if table_file:
                write_row(table_file, row, facts)
            if strange:
                print(f"{name}: files appeared outside: {strange}", flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

"""What `hiercnn export` writes: the same answers without the run, and nothing that could run code when it is read."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from train.tiny import BRANCHES, tiny

import hiercnn
from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.inference import FILES, load_exported, plain_archive, rules
from hiercnn.models import Output, create_backbone
from hiercnn.recipe import Run, calibrate_run, early_predictor, export_run, predictor_of_run
from hiercnn.recipe._card import wilson

FORMATS = list(FILES)
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PROMISE = {"target": 0.5, "confidence": 0.6}  # which 27 images can show


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny(BRANCHES, "epochs=6", "data.val=4", "optim.lr=0.1"), run_dir=tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory) -> dict[str, Path]:
    """One folder a format, heads kept where they can be."""
    root = tmp_path_factory.mktemp("folders")
    for form in FORMATS:
        export_run(run, form, root / form, heads="strip" if form == "timm" else "keep", rule="auto", options=PROMISE)
    return {form: root / form for form in FORMATS}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def copy_of(folders, tmp_path):
    """A copy of a format's folder, which a test may spoil."""
    return lambda form: Path(shutil.copytree(folders[form], tmp_path / form))


def output_of(run: Run) -> Output:
    with torch.inference_mode():
        return run.model(IMAGES)


def alone(folder: Path, code: str, without: tuple[str, ...]) -> str:
    """What code prints in a process of its own, in the folder, where these packages cannot be imported."""
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({without!r}))\n"
    run = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def blocks(folder: Path) -> list[str]:
    """The code of the model card."""
    return [part.removeprefix("python\n") for part in (folder / "README.md").read_text().split("```")[1::2]]


# ---- the same answers


@pytest.mark.long
@pytest.mark.parametrize("form", FORMATS)
def test_answers_are_the_run_s(run, folders, photos, form):
    ours, theirs = predictor_of_run(run, "auto", PROMISE), load_exported(folders[form])
    assert theirs.rule.calibration == ours.rule.calibration == calibrate_run(run, **PROMISE)
    for one, other in zip(ours(photos), theirs(photos), strict=True):
        assert (one.id, one.name, one.title, one.level, one.reason) == (other.id, other.name, other.title, other.level, other.reason)
        assert other.probability == pytest.approx(one.probability, abs=1e-5)
        assert [title for title, _ in one.path] == [title for title, _ in other.path]


@pytest.mark.parametrize("form", FORMATS)
def test_whoever_may_read_one_file_may_read_all(folders, form):
    assert len({file.stat().st_mode for file in folders[form].iterdir()}) == 1


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_heads_are_kept(run, folders, form):
    wanted, found = output_of(run), load_exported(folders[form]).score(IMAGES)
    assert list(found.heads) == ["stage0_3", "stage1_9"]
    for name, logits in {"leaf": wanted.leaf, **wanted.heads}.items():
        torch.testing.assert_close(found.leaf if name == "leaf" else found.heads[name], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_rules_that_read_heads_find_theirs(run, folders, photos, form):
    ours, theirs = (predictor(photos) for predictor in (predictor_of_run(run, "hie"), load_exported(folders[form], "hie")))
    assert [each.name for each in theirs] == [each.name for each in ours]


def test_rules_may_be_chosen_when_it_is_read(folders, photos):
    predictor = load_exported(folders["torch"], "climbing", {"threshold": 1})
    assert {each.level for each in predictor(photos)} == {"depth 0"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("climbng", {}, "unknown decision rule 'climbng'; did you mean 'climbing'"),
        ("climbing", {"treshold": 0.5}, "treshold"),
        ("auto", {"target": 0.9}, r"auto was calibrated when it was exported \(target 50 %\), so target cannot be set"),
        ("hie", {}, "hie needs a head that predicts groups, and there is none"),
    ],
)
def test_rules_that_cannot_be(folders, name, options, message):
    with pytest.raises(RecipeError, match=message):
        load_exported(folders["timm"], name, options)


def test_the_rule_can_be_rebuilt_from_the_file_alone(run, folders):
    manifest = json.loads((folders["onnx"] / "hiercnn.json").read_text())
    rule = rules[manifest["rule"]["name"]](run.hierarchy, **manifest["rule"]["options"])
    leaf = output_of(run).leaf
    assert torch.equal(rule(leaf).nodes, predictor_of_run(run, "auto", PROMISE).rule(leaf).nodes)


# ---- without hiercnn


def test_timm_loads_the_weights_bit_by_bit(run, folders):
    model = timm.create_model("tiny_net", checkpoint_path=str(folders["timm"] / "model.safetensors"), num_classes=36).eval()
    hub = timm.create_model(f"local-dir:{folders['timm']}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), output_of(run).leaf)
        assert torch.equal(hub(IMAGES), output_of(run).leaf)


@pytest.mark.long
def test_torch_needs_neither_hiercnn_nor_timm(run, folders, tmp_path):
    torch.save(IMAGES, tmp_path / "images.pt")
    code = f"""
import torch
images = torch.load({str(tmp_path / "images.pt")!r})
extra = {{"hiercnn.json": ""}}
program = torch.export.load("model.pt2", extra_files=extra).module()
torch.save([program(images), program(images[:1])], {str(tmp_path / "scores.pt")!r})
print(extra["hiercnn.json"])
"""
    facts = json.loads(alone(folders["torch"], code, ("hiercnn", "timm", "torchvision")))
    assert facts["outputs"] == ["leaf", "stage0_3", "stage1_9"]
    assert facts["digest"] == run.hierarchy.digest
    (leaf, *heads), (first, *_) = torch.load(tmp_path / "scores.pt")
    wanted = output_of(run)
    for one, other in zip((leaf, *heads, first), (wanted.leaf, *wanted.heads.values(), wanted.leaf[:1]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_onnx_carries_what_is_to_be_known(folders):
    import onnx

    model = onnx.load(folders["onnx"] / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (fact,) = model.metadata_props
    manifest = json.loads((folders["onnx"] / "hiercnn.json").read_text())
    assert fact.key == "hiercnn"
    assert json.loads(fact.value) == {key: value for key, value in manifest.items() if key not in ("format", "sha256")}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [value.name for value in model.graph.output] == manifest["outputs"]


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_of_this_machine_is_told(folders, form):
    for file in folders[form].iterdir():
        content = file.read_bytes()
        assert not [place for place in (sys.prefix, str(Path.cwd()), str(folders[form].parent)) if place.encode() in content], file


@pytest.mark.parametrize("form", FORMATS)
def test_the_card_s_lines_load_it(run, folders, photos, form, monkeypatch, tmp_path, capsys):
    folder = shutil.copytree(folders[form], tmp_path / form)
    shutil.copy(photos[0], folder / "photo.jpg")
    monkeypatch.chdir(folder)
    with_hiercnn, without = blocks(folder)
    exec(with_hiercnn, {})
    assert predictor_of_run(run, "auto", PROMISE)(photos[0])[0].title in capsys.readouterr().out
    names = {"images": IMAGES}
    exec(without, names)
    leaf = names["leaf"] if form == "onnx" else names["leaf"].detach().numpy()
    np.testing.assert_allclose(leaf, output_of(run).leaf, atol=1e-4, rtol=1e-4)


# ---- the card


def test_the_card(run, folders):
    card = (folders["torch"] / "README.md").read_text()
    test = run.end["test"]
    low, high = wilson(test["accuracy"]["leaf"], 108)
    for line in (
        f"- Data: synthetic ({', '.join(f'{count:,} {part}' for part, count in run.start['sizes'].items())} images).",
        "- Tree: synthetic: 3 groups, 9 groups, 36 classes.",
        f"| leaf | {test['accuracy']['leaf']:.1%} | {low:.1%} – {high:.1%} |",
        f"HD@1 {test['hd1']:.2f}, severity of mistakes {test['severity']:.2f}, at top-1 {test['accuracy']['leaf']:.1%}: "
        "edges up to the lowest common ancestor, over all images and over mistakes.",
        "3. `stage1_9`: logits of 9 groups",
    ):
        assert line in card.splitlines(), line
    assert calibrate_run(run, **PROMISE).describe() in card
    assert "short side to 16 px (bilinear, antialiased), centre crop of 16 × 16" in card


def test_wilson_s_interval():
    assert wilson(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_the_best_weights_and_a_rule_without_promise(run, tmp_path):
    export_run(run, "timm", tmp_path / "out", rule="crm", options={"distance": "path"}, weights="best")
    with torch.inference_mode():
        assert torch.equal(load_exported(tmp_path / "out").score(IMAGES).leaf, run.load_model("best")(IMAGES).leaf)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`crm` with distance path. It was not calibrated" in card
    assert "- Weights: best, after epoch" in card
    with pytest.raises(RecipeError, match="auto needs a calibration, and this folder was exported with another rule"):
        load_exported(tmp_path / "out", "auto")


# ---- folders that were changed


def edited(folder: Path, change) -> Path:
    """The folder after `change` of what its hiercnn.json says, or with that text in it."""
    path = folder / "hiercnn.json"
    if not isinstance(change, str):
        manifest = json.loads(path.read_text())
        change(manifest)
        change = json.dumps(manifest)
    path.write_text(change)
    return folder


def swapped(manifest: dict) -> None:
    classes = manifest["hierarchy"]["classes"]
    classes[0], classes[1] = classes[1], classes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "hiercnn.json is damaged"),
        ("[1]", "hiercnn.json is damaged, or of another version"),
        (lambda it: it.pop("images"), "images: Field required"),
        (lambda it: it.update(format="hiercnn.export/9"), "of another version of hiercnn: format"),
        (lambda it: it["images"].update(size="large"), "images.size"),
        (swapped, "the tree, or the order of its classes, is not the one that the network was exported with"),
        (lambda it: it["hierarchy"]["names"].__setitem__(1, "angular"), "hiercnn.json is damaged"),
        (lambda it: it["outputs"].reverse() or it.update(outputs=["stage0_3"]), "outputs should be"),
        (lambda it: it.update(cuts=[{}]), "hiercnn.json is damaged"),
        (lambda it: it["options"].update(checkpoint_path="evil.pt"), "the options checkpoint_path are none of an architecture's"),
    ],
)
def test_a_changed_hiercnn_json(copy_of, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_exported(edited(copy_of("timm"), change))


@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["images"].update(size=64),
        lambda it: it["images"].update(channels=1, mean=[0.5], std=[0.5]),
        lambda it: it["heads"].update(more=it["heads"]["stage0_3"]) or it["outputs"].append("more"),
    ],
)
def test_images_and_outputs_that_the_network_does_not_have(copy_of, form, change):
    with pytest.raises(CheckpointError, match=f"are not those of {FILES[form]}; export the run again"):
        load_exported(edited(copy_of(form), change))


@pytest.mark.parametrize("architecture", ["hf-hub:someone/evil", "local-dir:.", "tiny_nett"])
def test_architectures_are_names_of_timm_s_registry(copy_of, architecture):
    with pytest.raises(RecipeError, match="unknown backbone"):
        load_exported(edited(copy_of("timm"), lambda it: it.update(architecture=architecture)))


@pytest.mark.parametrize("form", FORMATS)
def test_another_network_s_file(copy_of, form):
    folder = copy_of(form)
    (folder / FILES[form]).write_bytes((folder / FILES[form]).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{FILES[form]} is not the file that hiercnn.json was written for"):
        load_exported(folder)
    (folder / FILES[form]).unlink()
    with pytest.raises(CheckpointError, match=f"cannot read .*{FILES[form]}: No such file"):
        load_exported(folder)


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_with_its_own_fingerprint(copy_of, form):
    folder = copy_of(form)
    with pytest.raises(CheckpointError, match=FILES[form]):
        load_exported(forged(folder, form, (folder / FILES[form]).read_bytes()[:900]))


def test_no_export(tmp_path):
    with pytest.raises(CheckpointError, match="no exported network in .*cannot read hiercnn.json"):
        load_exported(tmp_path)


# ---- archives that would run code


def forged(folder: Path, form: str, content: bytes) -> Path:
    """The folder with another file of the network and its fingerprint: whoever forges one forges both."""
    (folder / FILES[form]).write_bytes(content)
    return edited(folder, lambda it: it.update(sha256=hashlib.sha256(content).hexdigest()))


def rezipped(content: bytes, changes: dict[str, object]) -> bytes:
    """An archive with other files: bytes, or functions of what JSON they hold."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    for name, change in changes.items():
        if callable(change):
            document = json.loads(files[name])
            change(document)
            change = json.dumps(document).encode()
        files[name] = change
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in files.items():
            archive.writestr(f"model/{name}", part)
    return buffer.getvalue()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def evil_pickle(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Evil(mark), buffer)
    return buffer.getvalue()


def pickled_weight(config: dict) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def opaque_constant(config: dict) -> None:
    config["config"]["it"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}


def node(change: dict):
    return lambda model: model["graph_module"]["graph"]["nodes"][0].update(change)


def renamed(model: dict) -> None:
    model["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = "images=open('x', 'w')"


def computed_size(model: dict) -> None:
    sizes = model["graph_module"]["graph"]["tensor_values"]["images"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = "open('x', 'w')"


def imported_spec(model: dict) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace("builtins.tuple", "antigravity.Tuple")


def object_argument(model: dict) -> None:
    model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "it", "class_fqn": "it"}}


MODEL, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({WEIGHTS: pickled_weight, "data/weights/weight_0": "pickle"}, "is a pickle"),
        ({CONSTANTS: opaque_constant, "data/constants/opaque_obj_0": "pickle"}, "it is a pickle"),
        ({MODEL: node({"target": "torch.serialization.os.system"})}, "it calls torch.serialization.os.system"),
        ({MODEL: node({"target": "torch.ops.aten.from_file.default"})}, "it calls torch.ops.aten.from_file.default"),
        ({MODEL: node({"target": "_operator.methodcaller"})}, "it calls _operator.methodcaller"),
        ({MODEL: node({"target": "#evil:it"})}, "it calls #evil:it"),
        ({MODEL: renamed}, "name is .images=open"),
        ({MODEL: computed_size}, "expr_str is .open"),
        ({MODEL: imported_spec}, "its inputs or outputs are objects"),
        ({MODEL: object_argument}, "a graph or an object"),
        ({MODEL: b"{}"}, "is damaged"),
        ({MODEL: b"\xff"}, "is damaged"),
    ],
)
def test_hostile_archives_are_refused(copy_of, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    changes = {name: evil_pickle(mark) if change == "pickle" else change for name, change in changes.items()}
    folder = copy_of("torch")
    content = rezipped((folder / "model.pt2").read_bytes(), changes)
    with pytest.raises(CheckpointError, match=message):
        load_exported(forged(folder, "torch", content))
    assert not mark.exists()
    assert not (tmp_path / "x").exists()


def test_what_torch_would_unpickle_or_compile_is_left_out(run, copy_of, tmp_path, monkeypatch):
    """Sample inputs and weights of before 2.9 are pickles for torch, guards are code; ours reads none of them."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    hostile = {
        "data/sample_inputs/model.pt": evil_pickle(mark),
        "data/weights/model.pt": evil_pickle(mark),
        MODEL: lambda model: model.update(guards_code=["open('x', 'w')"]),
    }
    folder = copy_of("torch")
    forged(folder, "torch", rezipped((folder / "model.pt2").read_bytes(), hostile))
    torch.testing.assert_close(load_exported(folder).score(IMAGES).leaf, output_of(run).leaf, atol=1e-5, rtol=1e-5)
    assert not mark.exists()
    assert not (tmp_path / "x").exists()
    with pytest.raises(pickle.UnpicklingError):  # the mark is one: torch's own reader would have made it
        torch.load(io.BytesIO(evil_pickle(mark)), weights_only=True)
    torch.load(io.BytesIO(evil_pickle(mark)), weights_only=False).close()
    assert mark.exists()


def test_compressed_and_legacy_archives(folders):
    content = (folders["torch"] / "model.pt2").read_bytes()
    assert plain_archive(content, "it") == content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/archive_format", "pt2" * 100)
    with pytest.raises(CheckpointError, match="it: the file model/archive_format is compressed"):
        plain_archive(buffer.getvalue(), "it")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("weights_config.json")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in files.items():
            archive.writestr(name, part)
    with pytest.raises(CheckpointError, match="data/weights/ is a pickle, as torch 2.8 writes it"):
        plain_archive(buffer.getvalue(), "it")


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onx"}, "unknown format 'onx'; did you mean 'onnx'.; there are timm, torch, onnx"),
        ({"heads": "drop"}, "heads: wanted strip or keep, got 'drop'"),
        ({"format": "timm", "heads": "keep"}, "a timm classifier has no heads to keep; take --format torch or onnx"),
        ({"rule": "hie"}, "the rule hie reads a head; export with --heads keep"),
        ({"rule": "climbng"}, "did you mean 'climbing'"),
        ({"weights": "step-1"}, "weights: wanted last, best or average"),
    ],
)
def test_wrong_arguments(run, tmp_path, arguments, message):
    with pytest.raises(RecipeError, match=message):
        export_run(run, **{"format": "torch", "folder": tmp_path / "out"} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export_run(run, "timm", ".", rule="argmax").difference == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "hiercnn.json", "model.safetensors"]


def test_onnx_runs_on_the_cpu(folders):
    with pytest.raises(RecipeError, match="ONNX runs on the CPU here, not on cuda"):
        load_exported(folders["onnx"], device="cuda")


def test_a_folder_that_is_not_empty(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RecipeError, match="--out: .* is not an empty folder; choose another"):
        export_run(run, "timm", tmp_path)


def test_a_run_that_is_not_finished(tmp_path):
    with pytest.raises(CheckpointError, match="no finished run in .*; train it to its end first"):
        export_run(Run(tmp_path / "nothing"), "timm", tmp_path / "out")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_packages_that_are_missing(run, tmp_path, monkeypatch, missing):
    monkeypatch.setattr("hiercnn.recipe._export.find_spec", lambda name: None if name == missing else True)
    with pytest.raises(RecipeError, match=rf"format onnx needs {missing}, not installed here; run: pip install hiercnn\[export\]"):
        export_run(run, "onnx", tmp_path / "out")


def test_onnxruntime_is_missing(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RecipeError, match=r"model.onnx needs onnxruntime, which is not installed; run: pip install hiercnn\[export\]"):
        load_exported(folders["onnx"])


def test_logits_that_differ_leave_nothing(run, tmp_path, monkeypatch):
    score = hiercnn.inference.Predictor.score
    monkeypatch.setattr(hiercnn.inference.Predictor, "score", lambda self, images: Output(score(self, images).leaf + 1e-3))
    with pytest.raises(RecipeError, match="timm: logits of leaf differ from the run's by up to 0.001"):
        export_run(run, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# ---- networks that are not plain


@pytest.mark.long
@pytest.mark.parametrize(
    ("classifier", "form"),
    [
        ("conditional", "torch"),
        pytest.param("conditional", "onnx", marks=pytest.mark.slow),
        pytest.param("margin", "torch", marks=pytest.mark.slow),
    ],
)
def test_a_classifier_that_scores_nodes(tmp_path, classifier, form):
    run = hiercnn.fit(tiny("epochs=1", f"model.classifier={classifier}", f"loss={{name: {classifier}_nll}}"), run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match="leaf scores need the tree.*; take --format torch or onnx"):
        export_run(run, "timm", tmp_path / "timm")
    export_run(run, form, tmp_path / "out", rule="argmax")
    with torch.inference_mode():
        torch.testing.assert_close(load_exported(tmp_path / "out").score(IMAGES).leaf, run.model(IMAGES).leaf, atol=1e-5, rtol=1e-5)
    assert b"hiercnn::" not in (tmp_path / "out" / FILES[form]).read_bytes()


@pytest.mark.long
def test_heads_that_feed_the_leaf_and_a_path_sum(tmp_path):
    recipe = tiny("epochs=1", "model.classifier=path_sum", "model.heads=[{stage: 0, cut: 3, feed_forward: true}]")
    run = hiercnn.fit(recipe, run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match="the leaf scores need the heads stage0_3.*; take --format torch or onnx"):
        export_run(run, "timm", tmp_path / "timm")
    export_run(run, "torch", tmp_path / "torch", rule="argmax")
    found = load_exported(tmp_path / "torch").score(IMAGES)
    with torch.inference_mode():
        torch.testing.assert_close(found.leaf, run.model(IMAGES).leaf, atol=1e-5, rtol=1e-5)
    assert found.heads == {}


def test_a_model_that_was_an_object(tmp_path):
    model = create_backbone("tiny_net", 36)
    run = hiercnn.fit(tiny("epochs=1"), model=model, run_dir=tmp_path / "run")
    with pytest.raises(RecipeError, match="was an object, which timm cannot build by name; take --format torch or onnx"):
        export_run(run, "timm", tmp_path / "out")
    with pytest.raises(CheckpointError, match="was an object; pass it"):
        export_run(Run(run.path), "torch", tmp_path / "out")
    export_run(Run(run.path, model=model), "torch", tmp_path / "out", rule="argmax")
    assert load_exported(tmp_path / "out").score(IMAGES).leaf.shape == (3, 36)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("backbone", ["alexnet_bn", "vgg_small", "resnet_small", "test_vit", "test_convnext", "test_efficientnet"])
def test_other_networks(tmp_path, form, backbone):
    """And heads that are stripped are not in the file."""
    size = 160 if backbone.startswith("test_") else 32
    overrides = ("epochs=1", f"model.backbone={backbone}", f"data.image_size={size}", "data.render_train=2", "data.render_test=1")
    run = hiercnn.fit(tiny(*overrides, "model.heads=[{stage: early, cut: 3}]"), run_dir=tmp_path / "run")
    found = export_run(run, form, tmp_path / "out", heads="keep", rule="climbing")
    assert found.difference < 1e-4
    stripped = export_run(run, form, tmp_path / "stripped", rule="climbing")
    assert (stripped.folder / stripped.file).stat().st_size < (found.folder / found.file).stat().st_size
    if form == "torch":
        code = f"import torch; print([list(x.shape) for x in torch.export.load('model.pt2').module()(torch.zeros(3, 3, {size}, {size}))])"
        assert alone(tmp_path / "out", code, ("hiercnn", "timm")) == "[[3, 36], [3, 3]]\n"


# ---- networks that end at a head


@pytest.mark.long
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_network_can_end_at_a_head(run, folders, photos, tmp_path, form):
    export_run(run, form, tmp_path / form, level="3", rule="climbing", options={"threshold": 0.5})
    ours, theirs = early_predictor(run, "3", rule="climbing", options={"threshold": 0.5}), load_exported(tmp_path / form)
    for one, other in zip(ours(photos), theirs(photos), strict=True):
        assert (one.name, one.title, one.level, one.reason) == (other.name, other.title, other.level, other.reason)
        assert other.probability == pytest.approx(one.probability, abs=1e-5)
    assert {each.level for each in theirs(photos)} <= {"3 groups", "depth 0"}
    assert (tmp_path / form / FILES[form]).stat().st_size < (folders[form] / FILES[form]).stat().st_size


def test_its_archive_holds_no_weight_behind_the_head(run, tmp_path):
    export_run(run, "torch", tmp_path / "early", budget=0.999, rule="argmax")
    names = set(torch.export.load(tmp_path / "early" / "model.pt2").state_dict)
    assert any(name.startswith("network.backbone.stages.0.") for name in names)
    assert not any(name.startswith(("network.backbone.stages.2.", "network.backbone.stages.3.", "network.backbone.fc.")) for name in names)


def test_its_card_tells_what_the_head_is_worth(run, tmp_path):
    export_run(run, "torch", tmp_path / "early", level="9 groups", rule="argmax")
    card, measured = (tmp_path / "early" / "README.md").read_text(), run.end["test"]
    assert "ends at the head `stage1_9`: its classes are 9 groups" in card
    assert f"{measured['heads']['stage1_9']:.1%} get the right one" in card
    assert f"for {measured['accuracy']['9 groups']:.1%}" in card


def test_its_auto_is_calibrated_on_the_head(run, tmp_path):
    export_run(run, "torch", tmp_path / "early", level="3", rule="auto", options=PROMISE)
    wanted = early_predictor(run, "3", rule="auto", options=PROMISE).rule.calibration
    assert load_exported(tmp_path / "early").rule.calibration == wanted != calibrate_run(run, **PROMISE)


@pytest.mark.parametrize(
    ("form", "asked", "message"),
    [
        ("timm", {"level": "3"}, "a network that ends at a head is no timm classifier; take --format torch or onnx"),
        ("torch", {"level": "3", "heads": "keep"}, "a network that ends at a head has this head alone"),
        ("torch", {"level": "4"}, r"no head answers for '4'; the heads on groups are: stage0_3 \(3 groups, "),
        ("torch", {"budget": 0.001}, "no head answers at 0% of the cost"),
        ("torch", {"level": "3", "rule": "hie"}, "an early answer is the head's own"),
    ],
)
def test_what_cannot_end_at_a_head(run, tmp_path, form, asked, message):
    with pytest.raises(RecipeError, match=message):
        export_run(run, form, tmp_path / "early", **asked)
    assert not (tmp_path / "early").exists()

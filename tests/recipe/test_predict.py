"""Predictions of a run: the network's own answers, whatever the images come as, and what cannot be read."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from train.tiny import BRANCHES, tiny

import hiercnn
from hiercnn.errors import CheckpointError, DataError, RecipeError
from hiercnn.inference import Predictor, rules
from hiercnn.recipe import Run, build_data, build_source, calibrate_run, load_recipe, predictor_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return hiercnn.fit(tiny(BRANCHES, "epochs=4", "decision={name: argmax}"), run_dir=tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """The test images as files, in the run's order."""
    folder = tmp_path_factory.mktemp("files")
    images = build_data(run.recipe, build_source(run.recipe), run.hierarchy).test.images
    paths = [folder / f"{number:03d}.png" for number in range(20)]
    for path, image in zip(paths, images, strict=False):
        picture(image).save(path)
    return paths


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def answers(found) -> list[tuple[str, str, float]]:
    """What stays the same in batches of other sizes."""
    return [(each.name, each.level, round(each.probability, 4)) for each in found]


def kept_logits(run) -> torch.Tensor:
    with np.load(run.predictions / "test.npz") as arrays:
        return torch.from_numpy(arrays["logits"][np.argsort(arrays["indices"])]).float()


def test_answers_are_those_of_the_evaluation(run, files):
    found = predictor_of_run(run)(files)
    logits = kept_logits(run)[:20]
    assert [each.name for each in found] == [run.hierarchy.classes[best] for best in logits.argmax(1)]
    wanted = logits.softmax(1).amax(1)
    torch.testing.assert_close(torch.tensor([each.probability for each in found]), wanted, atol=5e-3, rtol=0)  # kept in half precision
    assert [each.id for each in found] == [str(file) for file in files]


@pytest.mark.parametrize(
    ("name", "options"), [("climbing", {"threshold": 0.3}), ("crm", {}), ("top_down", {}), ("threshold", {}), ("hie", {})]
)
def test_answers_are_those_of_the_rule(run, files, name, options):
    predictor = predictor_of_run(run, name, options)
    output = predictor.score(torch.stack([normalised(file) for file in files]))
    decision = predictor.rule(output.leaf, output.heads)
    found = predictor(files)
    tree = run.hierarchy
    assert [each.name for each in found] == [tree.names[node] for node in decision.nodes.tolist()]
    assert [each.probability for each in found] == pytest.approx(decision.probability.tolist())
    for row, each in enumerate(found):
        heads = {head: scores[row] for head, scores in output.heads.items()}
        assert each.reason == predictor.rule.reason(output.leaf[row], heads)
        above = [node for node in reversed(tree.ancestors(int(decision.nodes[row])).tolist()) if node]
        assert sorted(title for title, _ in each.path) == sorted(tree.titles[node] for node in above)
        shares = [share for _, share in each.path]
        assert shares == sorted(shares, reverse=True)
        assert not shares or shares[-1] == pytest.approx(each.probability, abs=1e-6)


def normalised(file) -> torch.Tensor:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255 - mean) / std


def test_levels_are_called_as_the_cuts_are(run, files):
    levels = {
        threshold: {each.level for each in predictor_of_run(run, "climbing", {"threshold": threshold})(files)} for threshold in (0, 1)
    }
    assert levels[0] == {"leaf"}
    assert levels[1] == {"depth 0"}
    assert {each.level for each in predictor_of_run(run, "climbing", {"threshold": 0.5})(files)} <= {
        "leaf",
        "9 groups",
        "3 groups",
        "depth 0",
    }


def test_images_may_come_as_anything(run, files):
    predictor = predictor_of_run(run)
    wanted = answers(predictor(files))
    assert answers(predictor(files[0].parent)) == wanted
    assert answers(predictor(str(files[0]))) == wanted[:1]
    mixed = [Image.open(files[0]), np.array(Image.open(files[1])), files[2], np.array(Image.open(files[3]).convert("L"))]
    found = predictor(mixed)
    assert answers(found[:3]) == wanted[:3]
    assert [each.id for each in found] == ["image 0", "image 1", str(files[2]), "image 3"]


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "1", "LA", "RGBA"])
def test_modes_are_read_as_timm_reads_them(run, files, tmp_path, mode):
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.open(files[0]).convert(mode).save(file)
    plain = tmp_path / "plain.png"
    Image.open(file).convert("RGB").save(plain)
    one, other = predictor_of_run(run)([file, plain])
    assert answers([one]) == answers([other])


def test_turned_by_exif_alone_is_not_turned(run, files, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files[0]).save(tmp_path / "turned.png", exif=exif)
    one, other = predictor_of_run(run)([tmp_path / "turned.png", files[0]])
    assert answers([one]) == answers([other])


def test_sixteen_bits_are_scaled(run, files, tmp_path):
    grey = np.array(Image.open(files[0]).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    one, other = predictor_of_run(run)([tmp_path / "deep.png", grey])
    assert answers([one]) == answers([other])


def test_a_single_pixel(run):
    (found,) = predictor_of_run(run)(np.zeros((1, 1, 3), dtype=np.uint8))
    assert found.level == "leaf"


def test_what_cannot_be_read_is_left_out_and_named(run, files, tmp_path):
    for file in files[:3]:
        shutil.copy(file, tmp_path)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.open(files[0]).resize((64, 64)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:600])
    Image.new("RGB", (200, 100)).save(tmp_path / "large.png")
    predictor = predictor_of_run(run, max_pixels=19_999)
    assert [each.id for each in predictor(tmp_path)] == [str(tmp_path / file.name) for file in files[:3]]
    reasons = {file.rsplit("/", 1)[1]: reason for file, reason in predictor.unreadable.items()}
    assert reasons.keys() == {"text.png", "empty.jpg", "cut.jpg", "large.png"}
    assert "cannot identify" in reasons["text.png"]
    assert "truncated" in reasons["cut.jpg"].lower()
    assert "20000 pixels" in reasons["large.png"]
    assert len(predictor_of_run(run, max_pixels=20_000)(tmp_path / "large.png")) == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images in an empty list"),
        (torch.zeros(3, 8, 8), r"image 0: wanted a file.*got torch.float32 \[3, 8, 8\]"),
        (np.zeros((8, 8, 4), dtype=np.uint8), r"got uint8 \[8, 8, 4\]"),
        ([7], "got int"),
    ],
)
def test_what_is_no_image(run, images, message):
    with pytest.raises(DataError, match=message):
        predictor_of_run(run)(images)


def test_a_folder_s_documents_are_no_images(run, files, tmp_path):
    shutil.copy(files[0], tmp_path / "photo.png")
    (tmp_path / "list.pdf").write_bytes(b"%PDF-1.4")
    assert predictor_of_run(run).inputs(tmp_path).ids == [str(tmp_path / "photo.png")]


def test_a_folder_without_images(run, tmp_path):
    with pytest.raises(DataError, match="no images in"):
        predictor_of_run(run)(tmp_path)


# ---- rules of runs


def test_the_rule_is_the_recipe_s_unless_told(run, tmp_path):
    assert type(predictor_of_run(run).rule) is rules["argmax"]
    assert predictor_of_run(run, "climbing", {"threshold": 0.25}).rule.threshold == 0.25


def test_auto_is_calibrated_on_val_once(run, monkeypatch):
    calibration = calibrate_run(run, target=0.8)
    assert calibration.target == 0.8
    file = run.path / "calibration" / "last-0.8-0.95.json"
    assert json.loads(file.read_text())["target"] == 0.8
    monkeypatch.setattr("hiercnn.recipe._predict.calibrate", None)
    assert predictor_of_run(run, "auto", {"target": 0.8}).rule.calibration == calibration


def test_a_run_that_cannot_be_written_answers_too(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("calibration")))
    (copy.path / "calibration").write_text("no folder")
    assert calibrate_run(copy, target=0.8) == calibrate_run(run, target=0.8)


@pytest.mark.parametrize("content", ["", "{}", '{"run": "another"}', "[1]"])
def test_calibrations_that_are_no_use_are_made_again(run, tmp_path, content):
    copy = Run(shutil.copytree(run.path, tmp_path / "run"))
    (copy.path / "calibration").mkdir(exist_ok=True)
    (copy.path / "calibration" / "last-0.9-0.95.json").write_text(content)
    assert calibrate_run(copy, target=0.9).target == 0.9


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no arrays"])
def test_kept_logits_that_are_damaged_are_made_again(run, tmp_path, content):
    copy = Run(shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("calibration")))
    (copy.predictions / "val.npz").write_bytes(content)
    found, wanted = calibrate_run(copy, target=0.8), calibrate_run(run, target=0.8)
    assert found.temperature.value == pytest.approx(wanted.temperature.value, rel=0.01)  # kept in half precision


def test_calibration_of_other_weights_runs_the_network(run):
    last, step = (calibrate_run(run, weights=weights, target=0.7) for weights in ("last", "best"))
    assert last.answers.images == step.answers.images


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("climbingg", {}, "unknown decision rule 'climbingg'; did you mean 'climbing'"),
        ("climbing", {"treshold": 0.5}, "climbing has no option 'treshold'; did you mean 'threshold'"),
        ("auto", {"threshold": 0.5}, "auto has no option 'threshold'"),
        ("auto", {"target": 1.5}, "target"),
        ("climbing", {"threshold": 1.5}, "threshold"),
        ("hie", {"head": "nobody"}, "hie needs a head 'nobody' that predicts groups, and there is stage0_3, stage1_9"),
    ],
)
def test_rules_that_cannot_be(run, name, options, message):
    with pytest.raises(RecipeError, match=message):
        predictor_of_run(run, name, options)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "argmx"}, "decision: unknown decision rule 'argmx'; did you mean 'argmax'"),
        ({"name": "climbing", "threshold": 2}, "decision.*threshold"),
    ],
)
def test_recipes_with_rules_that_cannot_be(section, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny().plain() | {"decision": section})


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="no run in"):
        predictor_of_run(Run(tmp_path / "nowhere"))


def test_anybody_s_network_and_settings(run, files):
    plain = run.model.strip_heads()
    predictor = Predictor(plain, rules["argmax"](run.hierarchy), run.recipe.data)
    assert answers(predictor(files)) == answers(predictor_of_run(run)(files))

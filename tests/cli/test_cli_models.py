"""`hiercnn models`."""

import pytest

from hiercnn.cli._models import FEW
from hiercnn.models import backbone_names


def rows(out: str) -> list[list[str]]:
    """The cells of the lines of a table that begin with a stage."""
    return [line.replace(" × ", "×").split() for line in out.splitlines() if line.strip()[:1].isdecimal()]


def test_one_model_shows_its_stages(command):
    code, out, _ = command("models", "resnet18")
    assert code == 0
    assert out.startswith("resnet18: 11.69 M parameters with 1,000 classes; images of 224 × 224\n")
    assert rows(out) == [
        ["0", "64", "2", "112×112"],
        ["1", "64", "4", "56×56"],
        ["2", "128", "8", "28×28", "early"],
        ["3", "256", "16", "14×14", "middle"],
        ["4", "512", "32", "7×7", "late"],
    ]


def test_stages_alike_share_a_row_and_images_of_another_size_may_need_an_option(command):
    out = command("models", "vit_tiny_patch16_224", "--size", 64).out
    assert "images of 64 × 64, with model.options.img_size: 64" in out
    assert rows(out) == [["0–11", "192", "16", "4×4", "early", "(4),", "middle", "(8),", "late", "(11)"]]


def test_few_matches_show_stages_each(command):
    out = command("models", "*_small_bn", "--size", 64).out
    assert [line.split(":")[0] for line in out.splitlines() if "parameters" in line] == ["vgg_small_bn"]
    assert [row[3] for row in rows(out)] == ["64×64", "32×32", "16×16", "8×8"]


def test_many_matches_are_names_alone(command):
    *names, last = command("models", "convnext").out.splitlines()
    assert names == backbone_names("*convnext*")
    assert len(names) > FEW
    assert last == f"{len(names)} backbones; a whole name, or a pattern that matches at most {FEW}, shows stages too"


def test_without_a_pattern_all_are_listed(command):
    names = command("models").out.splitlines()
    assert {"resnet50", "resnet_small", "vit_base_patch16_224"} < set(names)


def test_models_without_stages_say_why(command):
    code, out, _ = command("models", "mobilenetv5_300m_enc")
    assert (code, out.splitlines()[0]) == (
        0,
        "mobilenetv5_300m_enc: 'mobilenetv5_300m_enc' is an encoder without a classifier; choose another backbone (hiercnn models)",
    )
    assert rows(out) == []


@pytest.mark.long
def test_sizes_that_a_model_does_not_take_leave_the_maps_open(command):
    out = command("models", "inception_v3", "--size", 32).out
    assert "no feature maps at 32 × 32: RuntimeError" in out
    assert [row[3] for row in rows(out)] == ["–"] * 5


@pytest.mark.parametrize(("pattern", "message"), [("resnt18", "did you mean 'resnet18'?"), ("zzz*", "no backbone's name matches 'zzz*'")])
def test_unknown_names(command, pattern, message):
    code, out, err = command("models", pattern)
    assert (code, out) == (2, "")
    assert message in err

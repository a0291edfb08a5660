"""The model card of an exported network: what it is worth, what its rule promises, what images it wants, and how to load it."""

import math

from hiercnn.inference import FILES, MANIFEST, Calibration, Manifest
from hiercnn.models import HierarchicalModel
from hiercnn.recipe._fit import Run
from hiercnn.recipe._push import epoch_of, measured_on, registration, tree_name

Z = 1.959964  # of a two-sided interval of 95 %


def model_card(run: Run, manifest: Manifest, model: HierarchicalModel, weights: str) -> str:
    """The text of README.md."""
    head = manifest.trained.get("head")
    sections = {
        "Data and tree": _data(run, model, weights),
        "Accuracy": _accuracy(run, weights) if head is None else _accuracy_of_head(run, manifest, head, weights),
        "Decision rule": _rule(manifest),
        "Preprocessing": _preprocessing(manifest),
        "Outputs": _outputs(manifest),
        "Limits": _limits(run, manifest),
        "Use": _use(run, manifest),
    }
    header = "---\ntags: [image-classification, hiercnn]\nlicense: unknown\n---"  # whose data and weights these are, only the user knows
    parts = [header, f"# {run.recipe.name}", *(f"## {title}\n\n{text}" for title, text in sections.items())]
    return "\n\n".join(parts) + "\n"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in so many draws. Source: Wilson (1927)."""
    centre, spread = share + Z**2 / (2 * count), Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return tuple((centre + sign * spread) / (1 + Z**2 / count) for sign in (-1, 1))


def _data(run: Run, model: HierarchicalModel, weights: str) -> str:
    recipe = run.recipe
    images = ", ".join(f"{count:,} {part}" for part, count in run.start["sizes"].items())
    levels = ", ".join([*(cut.name for cut in run.cuts if cut.name != "leaf"), f"{run.hierarchy.num_classes} classes"])
    heads = ", ".join(f"{len(spec.cut)} groups after stage {spec.stage}" for spec in model.specs.values())
    return "\n".join(
        [
            f"- Data: {recipe.data.name} ({images} images).",
            f"- Tree: {tree_name(recipe)}: {levels}.",
            f"- Network: {recipe.model.backbone}, trained with {f'hypernym heads: {heads}' if heads else 'no hypernym heads'}.",
            f"- Weights: {weights}, after epoch {epoch_of(run, weights)} of {run.end['epochs']}, seed {recipe.seed}.",
        ]
    )


def _accuracy(run: Run, weights: str) -> str:
    split, measured = measured_on(run, weights)
    count = measured["images"]
    if not count:
        return f"No image of {split} is labelled with a class, so none was measured."
    rows = ["| level | accuracy | 95 % interval |", "|---|---:|---:|"]
    for level, share in measured["accuracy"].items():
        low, high = wilson(share, count)
        rows.append(f"| {level} | {share:.1%} | {low:.1%} – {high:.1%} |")
    top1, severity = measured["accuracy"]["leaf"], measured["severity"]
    mistakes = f"HD@1 {measured['hd1']:.2f}" + ("" if severity is None else f", severity of mistakes {severity:.2f}")
    return "\n".join(
        [
            f"Of the most probable class, on {count:,} images of {split}, with Wilson's intervals (other seeds differ by more):",
            "",
            *rows,
            "",
            f"{mistakes}, at top-1 {top1:.1%}: edges up to the lowest common ancestor, over all images and over mistakes.",
        ]
    )


def _accuracy_of_head(run: Run, manifest: Manifest, head: str, weights: str) -> str:
    split, measured = measured_on(run, weights)
    count, share = measured["images"], measured["heads"][head]
    low, high = wilson(share, count)
    whole = measured["accuracy"].get(manifest.level)
    return (
        f"This network ends at the head `{head}`: its classes are {manifest.level}, and what lay behind the head's stage is not here. "
        f"Of {count:,} images of {split}, {share:.1%} get the right one (Wilson's interval {low:.1%} – {high:.1%})"
        + ("." if whole is None else f"; the most probable class of the whole network lies in the right one for {whole:.1%}.")
    )


def _rule(manifest: Manifest) -> str:
    rule = manifest.rule
    if rule.name == "auto":
        calibration = Calibration.from_dict(rule.options["calibration"])
        return f"`auto`, calibrated on val: the class, or the lowest node above it that is probable enough. {calibration.describe()}"
    options = ", ".join(f"{name} {value}" for name, value in rule.options.items()) or "its defaults"
    return f"`{rule.name}` with {options}. It was not calibrated: probabilities are the network's own, and nothing is promised."


def _preprocessing(manifest: Manifest) -> str:
    images = manifest.images
    colours = {1: "grey", 3: "RGB"}.get(images.channels, f"{images.channels} channels")
    return (
        f"{colours}; short side to {images.size} px ({images.interpolation}, antialiased), centre crop of {images.size} × {images.size}; "
        f"(x / 255 − mean) / std with mean {_numbers(images.mean)} and std {_numbers(images.std)}; "
        f"[batch, {images.channels}, {images.size}, {images.size}] float32."
    )


def _outputs(manifest: Manifest) -> str:
    columns = {"leaf": f"{len(manifest.hierarchy['classes'])} {'classes' if manifest.level == 'leaf' else 'groups'}"}
    columns |= {name: f"{len(cut['names'])} groups" for name, cut in manifest.heads.items()}
    listed = [f"{number}. `{name}`: logits of {what}" for number, (name, what) in enumerate(columns.items(), start=1)]
    return "\n".join([*listed, "", f"Columns are in the order of `hierarchy.classes` and `heads.*.names` of {MANIFEST}."])


def _limits(run: Run, manifest: Manifest) -> str:
    size = manifest.images.size
    return "\n".join(
        [
            f"- It knows the classes of {run.recipe.data.name} and nothing else: an image of anything else gets one of their answers too.",
            f"- It was trained on images of {size} × {size} px and takes no other size.",
            "- Accuracy, probabilities and what the rule promises hold for images drawn like those of val and test, and for no others.",
            "- It computes in float32; where training used bfloat16, logits differ from those of its own evaluation in the third digit.",
        ]
    )


def _use(run: Run, manifest: Manifest) -> str:
    own = registration(run.recipe) if manifest.kind == "timm" else []
    alone = {"timm": "timm", "torch": "torch", "onnx": "onnxruntime"}[manifest.kind]
    answers = ["from hiercnn.inference import load_exported", 'predictor = load_exported(".")', 'print(predictor("photo.jpg"))']
    blocks = {
        "In this folder, with hiercnn (or `hiercnn predict . photo.jpg`):": [*own, *answers],
        f"With {alone} alone, of `images` as above:": [*own, *ALONE[manifest.kind](manifest)],
    }
    return "\n\n".join("\n".join([text, "", "```python", *lines, "```"]) for text, lines in blocks.items())


def _with_timm(manifest: Manifest) -> list[str]:
    options = {"num_classes": len(manifest.hierarchy["classes"]), "in_chans": manifest.images.channels, **manifest.options}
    listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return [
        "import timm",
        f'model = timm.create_model("{manifest.architecture}", checkpoint_path="{FILES["timm"]}", {listed}).eval()',
        "leaf = model(images)",
    ]


def _with_torch(manifest: Manifest) -> list[str]:
    return ["import torch", f'program = torch.export.load("{FILES["torch"]}").module()', f"{_names(manifest)} = program(images)"]


def _with_onnx(manifest: Manifest) -> list[str]:
    return [
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{FILES["onnx"]}")',
        f'{_names(manifest)}{"" if manifest.heads else ","} = session.run(None, {{"images": images.numpy()}})',
    ]


ALONE = {"timm": _with_timm, "torch": _with_torch, "onnx": _with_onnx}


def _names(manifest: Manifest) -> str:
    return ", ".join(manifest.outputs)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)

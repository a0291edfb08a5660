"""A finished run's network for use elsewhere: a timm classifier, a torch.export program or ONNX, with all that answers need beside it."""

import copy
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.hierarchy import Cut, cut_to_dict, to_dict
from hiercnn.inference import FILES, LEAF, MANIFEST, DecisionRule, Images, Manifest, Predictor, Rule, load_exported, plain_archive
from hiercnn.models import HierarchicalModel, Output
from hiercnn.recipe._card import model_card
from hiercnn.recipe._early import early_answer
from hiercnn.recipe._fit import Run
from hiercnn.recipe._predict import rule_of_run, side_of_images
from hiercnn.recipe._push import check_finished, check_free, check_rebuildable, plain_classifier, write_for_timm

HEADS = ("strip", "keep")
PACKAGES = {"timm": (), "torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
TOLERANCE = {"timm": 0.0, "torch": 1e-5, "onnx": 1e-4}  # of a logit, absolute and relative
CHECKED = 32  # images of noise
OTHERWISE = "take --format torch or onnx"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        folder: The folder. file: the network's file in it.
        difference: The largest difference between a logit of that file and of the run's network in float32; None: it could not be run.
    """

    folder: Path
    file: str
    difference: float | None


def export_run(
    run: Run,
    format: str,
    folder: Path | str,
    *,
    heads: str = "strip",
    level: str | None = None,
    budget: float | None = None,
    rule: str | None = None,
    options: Mapping[str, Any] | None = None,
    weights: str = "last",
) -> Exported:
    """Write a run's network with its preprocessing, tree and decision rule (hiercnn.json) and a model card (README.md), and check it.

    What was written is loaded again by `hiercnn.inference.load_exported` and must give the run's logits (bit for bit with timm, to 1e-5
    with torch, to 1e-4 with onnx, where onnxruntime is installed) and its rule's decisions, for 32 images of noise; else nothing stays.

    Args:
        run: A finished run; where its model was an object, `Run(path, model=...)`.
        format: `timm` (weights of a plain classifier), `torch` (a torch.export program) or `onnx`; the last two need no timm, no hiercnn.
        folder: A new or empty folder.
        heads: `strip` leaves the leaf logits alone, `keep` gives the heads' logits too, in the order of the recipe.
        level, budget: The network ends at a head, chosen as `early_predictor` does; its groups are the classes then, and what lies behind
            the head's stage is left out. For torch and onnx.
        rule, options: As for `predictor_of_run`.
        weights: `last`, `best` or `average`.

    Raises:
        CheckpointError: The run is not finished, or has no such weights.
        RecipeError: Unknown format; a folder that is not empty; a network that the format cannot hold; packages that are missing.
    """
    folder, early = Path(folder), level is not None or budget is not None
    _check(format, heads, early, folder)
    check_finished(run, weights)
    if format == "timm":
        check_rebuildable(run, OTHERWISE)
    model = run.load_model(weights)
    if rule is None:
        rule, options = run.recipe.decision.name, {**run.recipe.decision.options, **(options or {})}
    asked = {"rule": rule, "options": options or {}}
    content = _early(run, model, level=level, budget=budget, **asked) if early else _whole(run, model, heads, weights=weights, **asked)
    with _new_folder(folder) as scratch:
        facts = _facts(run, format, content, _stored(**asked, fitted=content.rule), weights)
        WRITERS[format](run, model, content.network, facts, scratch)
        fingerprint = hashlib.sha256((scratch / FILES[format]).read_bytes()).hexdigest()
        manifest = Manifest(**facts, sha256=fingerprint)
        (scratch / MANIFEST).write_text(_text(manifest.model_dump(mode="json")), encoding="utf-8")
        (scratch / "README.md").write_text(model_card(run, manifest, model, weights), encoding="utf-8")
        difference = _difference(format, scratch, content.network, content.rule, manifest.images)
    return Exported(folder, FILES[format], difference)


class Scores(nn.Module):
    """A network's leaf logits [B, C], or a tuple of them and of some heads' logits [B, K]."""

    def __init__(self, network: nn.Module, heads: Sequence[str] = ()):
        super().__init__()
        self.network, self.heads = network, list(heads)
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.data.contiguous()  # after training it may be channels last, which archives do not know
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.network(images)
        leaf = output if isinstance(output, Tensor) else output.leaf
        return (leaf, *(output.heads[name] for name in self.heads)) if self.heads else leaf


class Content(NamedTuple):
    """What is exported.

    Attributes:
        network: Its outputs are the leaf's logits and those of `heads`.
        rule: In the tree whose classes the leaf's logits are.
        cuts: Of this tree. heads: cut of every head that is an output. level: what the level of the classes is called.
        end: The head at which the network ends, or None.
    """

    network: Scores
    rule: Rule
    cuts: Sequence[Cut]
    heads: Mapping[str, Cut]
    level: str = LEAF
    end: str | None = None


def _whole(run: Run, model: HierarchicalModel, heads: str, *, weights: str, rule: str, options: Mapping[str, Any]) -> Content:
    chosen = rule_of_run(run, model, rule, options, weights=weights)
    if chosen.reads_heads and heads == "strip":
        raise RecipeError(f"the rule {rule} reads a head; export with --heads keep, or choose another rule")
    kept = model.cuts if heads == "keep" else {}
    return Content(Scores(model.with_heads(kept), list(kept)), chosen, run.cuts, kept)


def _early(run: Run, model: HierarchicalModel, **asked: Any) -> Content:
    found = early_answer(run, copy.deepcopy(model), **asked)
    return Content(Scores(found.network), found.rule, found.cuts, {}, found.early.cut.name, found.early.head)


def _check(format: str, heads: str, early: bool, folder: Path) -> None:
    if format not in FILES:
        raise RecipeError(f"unknown format '{format}'{did_you_mean(format, FILES)}; there are {', '.join(FILES)}")
    if heads not in HEADS:
        raise RecipeError(f"heads: wanted strip or keep, got '{heads}'")
    if (format, heads) == ("timm", "keep"):
        raise RecipeError(f"a timm classifier has no heads to keep; {OTHERWISE}")
    if early and format == "timm":
        raise RecipeError(f"a network that ends at a head is no timm classifier; {OTHERWISE}")
    if early and heads == "keep":
        raise RecipeError("--heads keep: a network that ends at a head has this head alone; leave one of them out")
    missing = [package for package in PACKAGES[format] if package != "onnxruntime" and find_spec(package) is None]
    if missing:
        raise RecipeError(f"format {format} needs {' and '.join(missing)}, not installed here; run: pip install hiercnn[export]")
    check_free(folder, "--out")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder, whose files move into `folder` if all goes well, hiercnn.json the last; if not, nothing stays."""
    scratch, is_new = folder / ".tmp", not folder.exists()
    try:
        scratch.mkdir(parents=True)
        yield scratch
        mode = (scratch / MANIFEST).stat().st_mode
        for file in sorted(scratch.iterdir(), key=lambda file: file.name == MANIFEST):
            file.chmod(mode)  # some are written for their owner alone
            file.replace(folder / file.name)
    except OSError as error:
        raise RecipeError(f"--out: cannot write to {folder}: {error.strerror or error}; choose another") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


# ---- hiercnn.json


def _facts(run: Run, format: str, content: Content, rule: DecisionRule, weights: str) -> dict[str, Any]:
    recipe, tree = run.recipe, content.rule.hierarchy
    images = Images(
        channels=run.channels,
        size=recipe.data.image_size or side_of_images(run),
        interpolation=recipe.data.interpolation or "bilinear",
        mean=run.start["mean"],
        std=run.start["std"],
    )
    groups = {name: cut_to_dict(cut) | {"tree": False} for name, cut in content.heads.items()}  # of a clustered tree, it may be
    packages = ("hiercnn", "torch", "timm", *PACKAGES[format])
    trained = {"recipe": recipe.name, "backbone": recipe.model.backbone, "weights": weights, "seed": recipe.seed, "run": run.digest}
    return {
        "kind": format,
        "file": FILES[format],
        "images": images.model_dump(),
        "outputs": [LEAF, *content.heads],
        "hierarchy": to_dict(tree),
        "digest": tree.digest,
        "cuts": [cut_to_dict(cut) for cut in content.cuts],
        "heads": groups,
        "rule": rule.model_dump(),
        "level": content.level,
        "architecture": recipe.model.backbone if format == "timm" else None,
        "options": recipe.model.options if format == "timm" else {},
        "trained": trained | ({} if content.end is None else {"head": content.end}),
        "versions": {package: metadata.version(package) for package in packages if find_spec(package)},
    }


def _stored(rule: str, options: Mapping[str, Any], fitted: Rule) -> DecisionRule:
    """The rule with what it was fitted to, as plain values."""
    if rule == "auto":
        return DecisionRule(name=rule, options={"calibration": fitted.calibration.to_dict()})
    found = {**options, "head": fitted.head} if rule == "hie" else dict(options)
    try:
        return DecisionRule(name=rule, options=json.loads(json.dumps(found)))
    except TypeError as error:
        raise RecipeError(f"options of {rule} must be plain values to be stored: {error}") from None


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


# ---- the network's file


def _write_timm(run: Run, model: HierarchicalModel, network: Scores, facts: dict[str, Any], folder: Path) -> None:
    write_for_timm(run, plain_classifier(run, model, OTHERWISE), folder)


def _write_torch(run: Run, model: HierarchicalModel, network: Scores, facts: dict[str, Any], folder: Path) -> None:
    buffer = io.BytesIO()
    torch.export.save(_program(network, facts), buffer, extra_files={MANIFEST: _text(facts)})
    (folder / FILES["torch"]).write_bytes(plain_archive(buffer.getvalue(), FILES["torch"]))


def _write_onnx(run: Run, model: HierarchicalModel, network: Scores, facts: dict[str, Any], folder: Path) -> None:
    outputs = facts["outputs"]
    program = torch.onnx.export(
        _program(network, facts), dynamo=True, input_names=["images"], output_names=outputs, verbose=False, external_data=False
    )
    for node in program.model.graph:
        node.metadata_props.clear()  # where in the code it came from
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()
        value.shape[0] = "batch"
    program.model.metadata_props["hiercnn"] = _text(facts)
    program.save(folder / FILES["onnx"], external_data=False)


WRITERS = {"timm": _write_timm, "torch": _write_torch, "onnx": _write_onnx}


def _program(network: Scores, facts: dict[str, Any]) -> torch.export.ExportedProgram:
    """The network for any number of images of the run's size, with those of its weights that it uses."""
    images = torch.zeros(2, facts["images"]["channels"], facts["images"]["size"], facts["images"]["size"])
    program = _followed(network, images)
    if any(name in dict(network.named_parameters()) for name in _unused(program)):  # it ends at a head
        for name in _unused(program):
            owner, _, tensor = name.rpartition(".")
            delattr(network.get_submodule(owner), tensor)
        program = _followed(network, images)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _followed(network: Scores, images: Tensor) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(network, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    except Exception as error:  # torch's own are of no common class
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise RecipeError(f"torch.export cannot follow this network ({why}); format timm may hold it") from error


def _unused(program: torch.export.ExportedProgram) -> list[str]:
    """Names of the weights and buffers that no operator reads."""
    tensors = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    return [tensors[node.name] for node in program.graph.nodes if node.name in tensors and not node.users]


# ---- the check


def _difference(format: str, folder: Path, network: Scores, rule: Rule, images: Images) -> float | None:
    """The largest difference of a logit, after comparing logits and decisions. Raises RecipeError if they are not the run's."""
    if format == "onnx" and find_spec("onnxruntime") is None:
        return None
    predictor, rule = load_exported(folder, device="cpu"), rule.cpu()
    noise = torch.randn(CHECKED, images.channels, images.size, images.size, generator=torch.Generator().manual_seed(0))
    worst = 0.0
    for part in (noise[:1], noise[1:]):
        with torch.inference_mode():
            scores = network(part)
        leaf, *others = (scores,) if isinstance(scores, Tensor) else scores
        worst = max(worst, _compare(format, predictor, Output(leaf, dict(zip(network.heads, others, strict=True))), part, rule))
    return worst


def _compare(format: str, predictor: Predictor, wanted: Output, images: Tensor, rule: Rule) -> float:
    found, tolerance, worst = predictor.score(images), TOLERANCE[format], 0.0
    for name, logits in {LEAF: wanted.leaf, **wanted.heads}.items():
        own = found.leaf if name == LEAF else found.heads[name]
        worst = max(worst, float((own - logits).abs().max()))
        if not torch.allclose(own, logits, rtol=tolerance, atol=tolerance):
            raise RecipeError(f"{format}: logits of {name} differ from the run's by up to {worst:.2g}; take another format")
    decided, ours = predictor.rule(found.leaf, found.heads), rule(wanted.leaf, wanted.heads)
    if not torch.equal(decided.nodes, ours.nodes):
        raise RecipeError(f"{format}: decisions differ from the run's, though logits are within {tolerance:g}; take another format")
    return worst

"""What `hiercnn export` leaves in a folder, and a `Predictor` from it: no run, no recipe and no pickle is needed."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from hiercnn.data import DataSettings
from hiercnn.errors import CheckpointError, HierCNNError, RecipeError
from hiercnn.hierarchy import Cut, Hierarchy, cut_from_dict, from_dict
from hiercnn.inference._hie import hie_options
from hiercnn.inference._predictor import BOMB, Predictor
from hiercnn.inference._pt2 import load_program
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import Rule, exactly
from hiercnn.models import Output, create_backbone, seeded
from hiercnn.settings import Settings

FORMAT = "hiercnn.export/1"
MANIFEST = "hiercnn.json"
FILES = {"timm": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
EXTRA = "pip install hiercnn[export]"
LEAF = "leaf"
# arguments of timm.create_model that a folder may not bring: they name files and addresses, or replace what the folder says elsewhere
NOT_OPTIONS = (
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "features_only",
    "scriptable",
    "exportable",
    "no_jit",
)


class Images(Settings):
    """How images become what the network takes: [B, channels, size, size], float32, (x / 255 − mean) / std."""

    channels: Annotated[int, Field(ge=1)]
    size: Annotated[int, Field(ge=2, le=8192)]
    resize: Literal["short side to size, then centre crop"] = "short side to size, then centre crop"
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"]
    antialias: Literal[True] = True
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class DecisionRule(Settings):
    """A registered decision rule and its options; `auto` has its calibration, `hie` the head whose cut is in `heads`."""

    name: str
    options: dict[str, Any]


class Manifest(Settings):
    """`hiercnn.json`: what is to be known of an exported network.

    Attributes:
        kind, file, sha256: The format, the network's file and its fingerprint.
        images: See `Images`.
        outputs: Names of the network's outputs in order: `leaf`, then heads. Columns are classes, and groups of the heads' cuts.
        hierarchy: The tree, as `hiercnn.hierarchy.to_dict` gives it, classes in the order of the leaf's columns. digest: its fingerprint.
        cuts: Cuts whose names answers bear. heads: cut of every head that is an output, by its name.
        rule: See `DecisionRule`.
        level: What the level of the classes is called; groups of a head where the network ends there.
        architecture, options: What timm builds, for the format timm.
        trained: Recipe, weights, epoch and seed.
        versions: Of hiercnn, torch, timm and what else had a part in it.
    """

    format: Literal["hiercnn.export/1"] = FORMAT
    kind: Literal["timm", "torch", "onnx"]
    file: str
    sha256: str
    images: Images
    outputs: Annotated[list[str], Field(min_length=1)]
    hierarchy: dict[str, Any]
    digest: str
    cuts: list[dict[str, Any]]
    heads: dict[str, dict[str, Any]]
    rule: DecisionRule
    level: str = LEAF
    architecture: str | None = None
    options: dict[str, Any] = {}
    trained: dict[str, Any]
    versions: dict[str, str]


def is_exported(folder: Path | str) -> bool:
    """Whether a folder is what `hiercnn export` writes, rather than a run."""
    return (Path(folder) / MANIFEST).is_file()


def load_exported(
    folder: Path | str,
    rule: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_pixels: int = BOMB,
) -> Predictor:
    """The network in a folder that `hiercnn export` has written, its preprocessing and its decision rule. It computes in float32.

    Nothing is unpickled. Weights are read by safetensors, ONNX by onnxruntime, and of a torch.export archive, which `torch.export.load`
    would trust, only tensors and a graph of operators on them reach torch (`_pt2.py`); anything else is refused.

    Args:
        folder: The folder, wherever it has gone.
        rule: A registered rule instead of the folder's own. options: its options, or those to change of the folder's own.
        device: Where the network runs; `auto` takes CUDA where there is one, but for ONNX, which runs on the CPU.
        batch_size, workers: Of the loader.
        max_pixels: Larger files count as unreadable.

    Raises:
        CheckpointError: Files that are missing, damaged, changed, or could run code; a tree that is not the one that was exported.
        RecipeError: Unknown rule or options, a rule that needs the run; onnxruntime is not installed; an architecture timm does not know.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    tree, cuts, heads = _tree(manifest, folder)
    chosen = _rule(manifest, tree, heads, rule, options or {})
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and manifest.kind != "onnx" else "cpu"
    network = NETWORKS[manifest.kind](manifest, network_file(manifest, folder), tree, torch.device(device))
    images = manifest.images
    settings = DataSettings(
        name="files",
        image_size=images.size,
        interpolation=images.interpolation,
        mean=images.mean,
        std=images.std,
        eval_batch_size=batch_size,
        workers=workers,
    )
    names = {"cuts": cuts, "leaf_level": manifest.level}
    return Predictor(network, chosen, settings, channels=images.channels, **names, device=device, max_pixels=max_pixels)


def read_manifest(folder: Path | str) -> Manifest:
    """What the folder's hiercnn.json says. Raises CheckpointError if it is missing or damaged."""
    path = Path(folder) / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Manifest.model_validate(values)
    except OSError as error:
        raise CheckpointError(f"no exported network in {folder}: cannot read {MANIFEST} ({error.strerror})") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors())
        raise CheckpointError(f"{path} is damaged, or of another version of hiercnn: {problems}; export the run again") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; export the run again") from None


def network_file(manifest: Manifest, folder: Path) -> bytes:
    """The content of the network's file. Raises CheckpointError unless it is the file that the manifest was written for."""
    path = folder / FILES[manifest.kind]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; {MANIFEST} says that the network is there") from None
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise CheckpointError(
            f"{path} is not the file that {MANIFEST} was written for: damaged, or of another export; export the run again"
        )
    return content


def _tree(manifest: Manifest, folder: Path) -> tuple[Hierarchy, list[Cut], dict[str, Cut]]:
    """The tree, the cuts to report and those of the heads."""
    try:
        tree = from_dict(manifest.hierarchy)
        cuts = [cut_from_dict(cut, tree) for cut in manifest.cuts]
        heads = {name: cut_from_dict(cut, tree) for name, cut in manifest.heads.items()}
    except (HierCNNError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error}; export the run again") from None
    if tree.digest != manifest.digest:
        raise CheckpointError(
            f"{folder / MANIFEST}: the tree, or the order of its classes, is not the one that the network was exported with; export again"
        )
    if manifest.outputs != [LEAF, *heads]:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: outputs should be {[LEAF, *heads]}, not {manifest.outputs}; export again")
    return tree, cuts, heads


def _rule(manifest: Manifest, tree: Hierarchy, heads: Mapping[str, Cut], name: str | None, options: Mapping[str, Any]) -> Rule:
    own = manifest.rule
    if name is None or name == own.name:
        name, options = own.name, {**own.options, **options}
    if name == "auto":
        _check_auto(options)
    if name == "hie":
        options = hie_options(heads, options)
    return rules[name](tree, **options)


def _check_auto(options: Mapping[str, Any]) -> None:
    if "calibration" not in options:
        raise RecipeError("auto needs a calibration, and this folder was exported with another rule; export the run with --rule auto")
    more = [option for option in options if option != "calibration"]
    if more:
        target = options["calibration"].get("target")
        raise RecipeError(
            f"auto was calibrated when it was exported (target {exactly(target)}), so {', '.join(more)} cannot be set; export the run again"
        )


# ---- networks: the file's content → images [B, channels, H, W] to `Output` or leaf logits


class _Named(nn.Module):
    """The outputs of a program by their names."""

    def __init__(self, score: Callable[[Tensor], Sequence[Tensor]], outputs: Sequence[str]):
        super().__init__()
        self.score, self.outputs = score, list(outputs)

    def forward(self, images: Tensor) -> Output:
        scores = dict(zip(self.outputs, self.score(images), strict=True))
        return Output(scores.pop(LEAF), scores)


def _from_timm(manifest: Manifest, content: bytes, tree: Hierarchy, device: torch.device) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load

    wrong = sorted(set(NOT_OPTIONS).intersection(manifest.options))
    if wrong:
        raise CheckpointError(f"{MANIFEST}: the options {', '.join(wrong)} are none of an architecture's; export the run again")
    name, options = str(manifest.architecture), {"in_chans": manifest.images.channels, "options": manifest.options}
    with seeded(0):  # its first weights are replaced, and the caller's generator is not to notice
        network = create_backbone(name, tree.num_classes, **options)  # of timm's registry, which a hub's address is not in
    try:
        network.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{FILES['timm']} holds no weights of '{manifest.architecture}': {error}; export the run again") from error
    return network


def _from_torch(manifest: Manifest, content: bytes, tree: Hierarchy, device: torch.device) -> nn.Module:
    from torch.export.passes import move_to_device_pass

    program = load_program(content, FILES["torch"])
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    inputs, outputs = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    _check_fit(manifest, [values[name].shape for name in inputs if name in values], len(outputs))
    module = (program if device.type == "cpu" else move_to_device_pass(program, str(device))).module()

    def score(images: Tensor) -> Sequence[Tensor]:  # no submodule: programs refuse eval()
        found = module(images)
        return (found,) if isinstance(found, Tensor) else found

    return _Named(score, manifest.outputs)


def _from_onnx(manifest: Manifest, content: bytes, tree: Hierarchy, device: torch.device) -> nn.Module:
    if device.type != "cpu":
        raise RecipeError(f"device: ONNX runs on the CPU here, not on {device}; take --device cpu, or the format torch")
    try:
        import onnxruntime
    except ImportError:
        raise RecipeError(f"{FILES['onnx']} needs onnxruntime, which is not installed; run: {EXTRA}") from None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own are of no common class
        raise CheckpointError(f"onnxruntime cannot read {FILES['onnx']}: {error}; export the run again") from error
    named = all(name in {each.name for each in session.get_outputs()} for name in manifest.outputs)
    _check_fit(manifest, [each.shape for each in session.get_inputs()], len(manifest.outputs) if named else 0)
    return _Named(
        lambda images: [torch.from_numpy(each) for each in session.run(manifest.outputs, {"images": images.numpy()})], manifest.outputs
    )


def _check_fit(manifest: Manifest, inputs: Sequence[Sequence[Any]], outputs: int) -> None:
    """Raise CheckpointError unless a program takes the manifest's images and gives as many outputs."""
    images = manifest.images
    if [list(shape[1:]) for shape in inputs] != [[images.channels, images.size, images.size]] or outputs != len(manifest.outputs):
        raise CheckpointError(
            f"{MANIFEST} says images of {images.channels} × {images.size} × {images.size} and the outputs {', '.join(manifest.outputs)}, "
            f"which are not those of {FILES[manifest.kind]}; export the run again"
        )


NETWORKS = {"timm": _from_timm, "torch": _from_torch, "onnx": _from_onnx}

"""Archives of torch.export that are read without running anything in them but tensor operators.

`torch.export.load` trusts its file: it unpickles weights, constants and sample inputs that say so, evaluates the expressions of sizes,
makes Python code of guards and names, and calls any function below torch that a node names. So an archive is read here first, and
what torch gets is another one, made of the parts that were checked: raw tensors, and a graph of aten operators in which every text is a
plain name. Archives that need more are refused.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hiercnn.errors import CheckpointError

PLAIN_FILES = ("archive_format", "archive_version", "byteorder", ".data/version")
MODEL, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
TENSORS = {"data/weights/": "weight", "data/constants/": "tensor"}  # folder: what its files of raw numbers are called
CONFIGS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
EXTRA = "extra/hiercnn.json"
STORED_AT = (1980, 1, 1, 0, 0, 0)  # equal programs are equal files

NAME = re.compile(r"[\w.]*", re.ASCII)
VERSION = re.compile(r"[\w.+]*", re.ASCII)
ARGUMENT = re.compile(r"[\w.,> -]*", re.ASCII)  # such as `none`, `reflect`, `bhd,bhe->bde`
FUNCTIONS = "Integer|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|Max|Min"
SIZE = re.compile(  # of a symbolic size, such as Mul(Integer(4), Symbol('s0', positive=True, integer=True))
    rf"(?:Symbol\('[su]\d+'|(?:{FUNCTIONS})\(|(?:positive|integer|nonnegative)=True|[\d(), -])*", re.ASCII
)
ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
ARITHMETIC = {
    f"_operator.{name}" for name in ("getitem", "add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "ge", "gt", "le", "lt")
}
ARITHMETIC |= {f"torch.{name}" for name in ("sym_max", "sym_min", "sym_int", "sym_sum", "sym_not")}
TAKES_TEXT = {"conv1d", "conv2d", "conv3d", "div", "div_", "einsum", "gelu", "gelu_", "meshgrid", "pad", "scatter_reduce"}  # no file names
TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}  # what inputs and outputs may be grouped in


def load_program(content: bytes, where: str) -> torch.export.ExportedProgram:
    """The program of a `.pt2` file. Raises CheckpointError if reading it would take more than numbers and operators, or it is damaged."""
    archive = plain_archive(content, where)
    try:
        return torch.export.load(io.BytesIO(archive))
    except Exception as error:  # whatever torch makes of a graph that does not fit together
        raise CheckpointError(f"cannot read {where}: {type(error).__name__}: {error}; export the run again") from error


def plain_archive(content: bytes, where: str) -> bytes:
    """The archive, made anew of the parts that may be read, without sample inputs, guards and traces of the code that it came from."""
    try:
        files = _files(content, where)
        found = {name: files[name] for name in PLAIN_FILES if name in files}
        found |= {MODEL: json.dumps(_checked_model(json.loads(files[MODEL]), where)).encode(), SAMPLES: b""}
        for folder in TENSORS:
            found |= _tensors(files, folder, where)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{where} is damaged, or no program that this version exports: {error!r}; export the run again") from error
    return _zipped(found | ({EXTRA: files[EXTRA]} if EXTRA in files else {}))


def _files(content: bytes, where: str) -> dict[str, bytes]:
    """The archive's files by their path below its one folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _refused(where, f"the file {packed[0]} is compressed")
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


def _tensors(files: Mapping[str, bytes], folder: str, where: str) -> dict[str, bytes]:
    """The files of raw numbers in a folder, and the list that says which tensors they are."""
    config = folder + CONFIGS[folder]
    if config not in files:
        raise _refused(where, f"{folder} is a pickle, as torch 2.8 writes it (2.9 does not)")
    listed = json.loads(files[config])
    for name, meta in listed["config"].items():
        if meta["use_pickle"] or not re.fullmatch(rf"{TENSORS[folder]}_\d+", meta["path_name"]):
            raise _refused(where, f"{name} is a pickle")
    paths = sorted({folder + meta["path_name"] for meta in listed["config"].values()})
    return {config: json.dumps(listed).encode()} | {path: files[path] for path in paths}


def _checked_model(model: dict[str, Any], where: str) -> dict[str, Any]:
    model["guards_code"] = []
    graph = model["graph_module"]["graph"]
    for node in graph["nodes"]:
        node["metadata"] = {}
        if node["target"] not in ARITHMETIC and not _is_plain_operator(node["target"]):
            raise _refused(where, f"it calls {node['target']}")
    for key, text in _texts(model):
        if key in ("in_spec", "out_spec"):
            if not _is_plain_tree(json.loads(text)[1]):
                raise _refused(where, "its inputs or outputs are objects")
        elif not {"expr_str": SIZE, "torch_version": VERSION, "as_string": ARGUMENT}.get(key, NAME).fullmatch(text):
            raise _refused(where, f"{key or 'a name'} is {text[:80]!r}")
    return model


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON document with the key it stands under; keys stand under nothing."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)
    elif isinstance(value, dict):
        if {"as_graph", "as_custom_obj", "as_operator"} & value.keys():
            yield key, "(a graph or an object)"  # no name, so it is refused
        for own, each in value.items():
            yield "", own
            yield from _texts(each, own)


def _is_plain_operator(target: str) -> bool:
    """Whether it is an operator on tensors and numbers, which reads and writes no files."""
    named = ATEN.fullmatch(target)
    packet = getattr(torch.ops.aten, named[1], None) if named else None
    operator = getattr(packet, named[2], None) if named else None
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    return named[1] in TAKES_TEXT or not any("str" in str(argument.type) for argument in operator._schema.arguments)


def _is_plain_tree(spec: dict[str, Any]) -> bool:
    return spec["type"] in TREES and all(_is_plain_tree(child) for child in spec["children_spec"])


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}", STORED_AT), content)
    return buffer.getvalue()


def _refused(where: str, why: str) -> CheckpointError:
    return CheckpointError(f"{where}: {why}, and reading that could run code; ask for a folder that `hiercnn export` has written")

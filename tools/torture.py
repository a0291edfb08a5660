"""Kill a training again and again, resume it, and compare with one that nobody disturbed, bit by bit.

    python tools/torture.py --kills 30

A small network is trained on rendered shapes in a process of its own, which is killed (SIGKILL) at a random moment, also within a save,
and resumed, until it has been killed so often; when it ends it begins anew. After every kill each checkpoint that is there must be
readable; after every end metrics (but times) and weights must be those of the undisturbed run, to the last bit. The last line is the
result; anything but zeros gives exit code 1, and the run folder is kept.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hiercnn.errors import HierCNNError
from hiercnn.recipe import Run, load_recipe, to_yaml

MEASURED = ("seconds", "peak_memory_mib")
RECIPE = {
    "name": "torture",
    "epochs": 6,
    "hierarchy": {"builtin": "synthetic", "cuts": [3, 9]},
    "data": {"name": "synthetic", "render_train": 6, "render_test": 3, "render_size": 16, "val": 1, "batch_size": 16},
    "model": {"backbone": "resnet_small", "heads": [{"stage": "early", "cut": 3, "weight": 0.5}]},
    "train": {"device": "cpu", "precision": "float32", "ema": 0.9},
    "checkpoints": {"keep": "log", "average": 2},
    "logging": {"display": "quiet"},
}


def start(file: Path, folder: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "hiercnn",
        "train",
        str(file),
        "--run-dir",
        str(folder),
        *["--resume"] * (folder / "recipe.yaml").exists(),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def events(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


def differing(folder: Path, wanted: Path) -> int:
    """Metrics and weights that are not those of the undisturbed run."""
    ours, theirs = events(folder), events(wanted)
    count = abs(len(ours) - len(theirs)) + sum(one != other for one, other in zip(ours, theirs, strict=False))
    files = [sorted(path.name for path in (one / "checkpoints").iterdir() if path.name != "state.pt") for one in (folder, wanted)]
    count += files[0] != files[1]
    return count + sum((folder / "checkpoints" / name).read_bytes() != (wanted / "checkpoints" / name).read_bytes() for name in files[1])


def unreadable(folder: Path) -> list[str]:
    """Checkpoints of a killed run that cannot be loaded."""
    if not (folder / "recipe.yaml").exists():
        return []
    run, found = Run(folder), []
    for file in sorted((folder / "checkpoints").glob("*.safetensors")):
        try:
            run.load_model(file.stem)
        except (HierCNNError, ValueError) as error:
            found.append(f"{file.name}: {error}")
    return found


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it ended within so long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def savings(folder: Path) -> bool:
    """Whether a file is being written just now."""
    return any((folder / "checkpoints").glob("*.tmp*"))


def kill(process: subprocess.Popen, folder: Path, draw: random.Random, seconds: float) -> bool:
    """Kill at a random moment of the next seconds, half of the times within the first save after it; False if it ended before."""
    if wait(process, draw.uniform(0, seconds)):
        return False
    until, in_save = time.monotonic() + 5, draw.random() < 0.5
    while in_save and not savings(folder) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.0005)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work. Default: a temporary folder, removed if all is well")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    file, whole, victim = folder / "torture.yaml", folder / "undisturbed", folder / "victim"
    file.write_text(to_yaml(load_recipe(RECIPE)), encoding="utf-8")
    for old in (whole, victim):
        shutil.rmtree(old, ignore_errors=True)
    began = time.monotonic()
    if start(file, whole).wait():
        sys.exit("torture.py: the undisturbed run failed")
    seconds, draw = time.monotonic() - began, random.Random(options.seed)
    kills = in_save = differ = ends = 0
    lost: list[str] = []
    while kills < options.kills or victim.exists():
        process = start(file, victim)
        if kills < options.kills and kill(process, victim, draw, seconds):
            kills += 1
            in_save += savings(victim)
            lost += unreadable(victim)
            continue
        if process.wait():
            sys.exit(f"torture.py: it does not go on after {kills} kills: {process.stderr.read().strip()}; see {victim}")
        ends += 1
        if wrong := differing(victim, whole):
            differ += wrong
            break
        shutil.rmtree(victim)
    print("\n".join(lost), end="\n" * bool(lost))
    print(f"{in_save} of the kills within a save; {ends} runs brought to their end")
    print(f"kills {kills}, differing metrics {differ}, unreadable checkpoints {len(lost)}")
    if differ or lost:
        sys.exit(1)
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

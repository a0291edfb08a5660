"""Disturb a training in every way that machines know, resume it, and compare with one that nobody disturbed, bit by bit.

    python tools/torture.py --kills 30

A small network is trained on rendered shapes in a process of its own, which is killed (SIGKILL) at a random moment, also within a save,
and resumed, until it has been killed so often; when it ends it begins anew. Then follow the scenarios, a line each: a disk that is full,
a folder that is read-only, files that vanish, SIGTERM, a loss that is not finite, readers that are killed, a clock that jumps, memory
that is full. Every process must end as it should, without a traceback and with a message that says what to do; every checkpoint that is
there must be readable; every resumed run must have the metrics (but times) and weights of the undisturbed one, to the last bit. The last
line is the result; anything but zeros gives exit code 1, and the run folders are kept.
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
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from hiercnn.data import data_sets
from hiercnn.errors import HierCNNError
from hiercnn.recipe import Run, load_recipe, to_yaml

MEASURED = ("seconds", "peak_memory_mib")
DISKS = (1, 12, 40)  # MiB; the first holds no checkpoint, the others some
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
OURS = 'hiercnn/cli/_app.py", line'  # in every traceback of the main process; readers of torch that are left behind have their own
FROM_FILES = {"image_size": 16, "storage": "files", "val": 1, "batch_size": 16, "workers": 2, "max_unreadable": 0}


# ---- processes


def start(file: Path, folder: Path, *overrides: str, inject: str | None = None) -> subprocess.Popen:
    program = ["-m", "hiercnn"] if inject is None else [__file__, "--inject", inject]
    command = [sys.executable, *program, "train", str(file), *overrides, "--run-dir", str(folder)]
    command += ["--resume"] * (folder / "recipe.yaml").exists()
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it ended within so long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def wait_for_epoch(process: subprocess.Popen, folder: Path, epoch: int) -> None:
    """Wait until an epoch is done, or the process."""
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and f'"epoch": {epoch},' in metrics.read_text(encoding="utf-8")):
        time.sleep(0.005)


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


def savings(folder: Path) -> bool:
    """Whether a file is being written just now."""
    return any((folder / "checkpoints").glob("*.tmp*"))


# ---- what is looked at


def events(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


def differing(folder: Path, wanted: Path) -> int:
    """Metrics and weights that are not those of the undisturbed run."""
    ours, theirs = events(folder), events(wanted)
    count = abs(len(ours) - len(theirs)) + sum(one != other for one, other in zip(ours, theirs, strict=False))
    files = [sorted(path.name for path in (one / "checkpoints").iterdir() if path.name != "state.pt") for one in (folder, wanted)]
    if files[0] != files[1]:
        return count + 1
    return count + sum((folder / "checkpoints" / name).read_bytes() != (wanted / "checkpoints" / name).read_bytes() for name in files[1])


def unreadable(folder: Path) -> list[str]:
    """Checkpoints of a disturbed run that cannot be loaded."""
    if not (folder / "recipe.yaml").exists() or not (folder / "hierarchy.json").exists():  # it has vanished, and comes back
        return []
    run, found = Run(folder), []
    for file in sorted((folder / "checkpoints").glob("*.safetensors")):
        try:
            run.load_model(file.stem)
        except (HierCNNError, ValueError) as error:
            found.append(f"{file.name}: {error}")
    return found


class Tally:
    """What a scenario has come to.

    Attributes:
        ends: Disturbed processes that ended as they should. wrong: sentences about those that did not.
        resumed: Runs brought to their end. differing: metrics and weights of these that are not the undisturbed run's.
        lost: Checkpoints that cannot be read. skipped: why the scenario could not be played, or nothing.
    """

    def __init__(self):
        self.ends = self.resumed = self.differing = 0
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.skipped = ""

    def ended(self, process: subprocess.Popen, code: int, *words: str) -> None:
        """Look at how a disturbed process ends."""
        said = process.communicate()[1]
        wrong = [f"it lacks {word!r}" for word in words if word not in said] + ["it has a traceback"] * (OURS in said)
        if process.returncode != code:
            wrong.append(f"the exit code is {process.returncode}, not {code}")
        self.wrong += [f"{'; '.join(wrong)}: {said.strip()[-600:]}"] if wrong else []
        self.ends += not wrong

    def goes_on(self, file: Path, folder: Path, whole: Path, *overrides: str) -> None:
        """Look at what a disturbed process has left, resume it, and compare."""
        self.lost += unreadable(folder)
        process = start(file, folder, *overrides)
        said = process.communicate()[1]
        if process.returncode:
            self.wrong.append(f"it does not go on: {said.strip()[-600:]}")
            return
        self.resumed += 1
        self.differing += differing(folder, whole)
        self.lost += unreadable(folder)

    def __str__(self) -> str:
        if self.skipped:
            return f"skipped, {self.skipped}"
        counts = f"{self.ends} ended as they should, {len(self.wrong)} did not; {self.resumed} brought to their end"
        return f"{counts}, differing metrics {self.differing}, unreadable checkpoints {len(self.lost)}"


class Place:
    """Where everything lies: the recipes, the undisturbed runs, and a new folder for each disturbed one."""

    def __init__(self, folder: Path, draw: random.Random):
        self.folder, self.draw, self.count = folder, draw, 0
        self.file, self.whole = folder / "torture.yaml", folder / "undisturbed"
        self.file.write_text(to_yaml(load_recipe(RECIPE)), encoding="utf-8")
        began = time.monotonic()
        self.undisturbed(self.file, self.whole)
        self.seconds = time.monotonic() - began

    def undisturbed(self, file: Path, folder: Path) -> None:
        process = start(file, folder)
        said = process.communicate()[1]
        if process.returncode:
            sys.exit(f"torture.py: the undisturbed run failed: {said}")

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"disturbed-{self.count}"

    def from_files(self) -> tuple[Path, Path, Path]:
        """A recipe that reads single images in other processes, its undisturbed run, and the folder of its images."""
        file, whole, root = self.folder / "files.yaml", self.folder / "undisturbed-files", self.folder / "images"
        if not whole.exists():
            source = data_sets["synthetic"](render_train=6, render_test=3, render_size=16)
            for split in ("train", "test"):
                images = getattr(source, split)
                for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
                    at = root / split / source.names[label] / f"{number}.png"
                    at.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(at)
            data = {"name": "folder", "root": str(root), **FROM_FILES}
            file.write_text(to_yaml(load_recipe(RECIPE | {"data": data})), encoding="utf-8")
            self.undisturbed(file, whole)
        return file, whole, root


# ---- scenarios


def disk_full(place: Place, tally: Tally) -> None:
    """A disk fills up before the first checkpoint, and later; then there is room again."""
    for size in DISKS:
        with mounted(place.new(), size) as disk:
            if disk is None:
                tally.skipped = "no small file system can be mounted here"
                return
            folder = disk / "run"
            tally.ended(start(place.file, folder), 2, "cannot write", "No space left on device")
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            tally.goes_on(place.file, folder, place.whole)


def read_only_folder(place: Place, tally: Tally) -> None:
    """A folder that cannot be written when a run begins, and when it goes on."""
    with mounted(place.new(), 1024) as disk:
        if disk is None:
            tally.skipped = "no file system can be mounted read-only here"
            return
        folder = disk / "run"
        with read_only(disk):
            tally.ended(start(place.file, folder), 2, "cannot write", "--run-dir")
        process = start(place.file, folder)
        wait_for_epoch(process, folder, 2)
        process.terminate()
        process.wait()
        with read_only(disk):
            tally.ended(start(place.file, folder), 2, "cannot write", "--run-dir")
        tally.goes_on(place.file, folder, place.whole)


@contextlib.contextmanager
def mounted(folder: Path, mebibytes: int) -> Iterator[Path | None]:
    """A file system in memory of so many MiB, or None."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def vanished_file(place: Place, tally: Tally) -> None:
    """An image, the recipe, the log, the state or the whole folder disappears; what can come back comes back."""
    file, whole, root = place.from_files()
    folder, image = place.new(), min((root / "train").glob("*/*.png"))
    with away_after(start(file, folder), folder, image) as process:
        tally.ended(process, 2, image.name, "max_unreadable")
    tally.goes_on(file, folder, whole)

    folder, recipe = place.new(), place.folder / "vanishing.yaml"
    shutil.copy(place.file, recipe)
    with away_after(start(recipe, folder), folder, recipe) as process:
        tally.ended(process, 0)
    tally.differing += differing(folder, place.whole)

    folder = place.new()
    with away_after(start(place.file, folder), folder, folder / "metrics.jsonl") as process:
        tally.ended(process, 2, "cannot write", "metrics.jsonl")
    tally.goes_on(place.file, folder, place.whole)

    folder = place.new()
    stopped(place, folder)
    for gone in (folder / "checkpoints" / "state.pt", folder / "metrics.jsonl"):
        gone.rename(place.folder / "away")
        tally.ended(start(place.file, folder), 2, gone.name)
        (place.folder / "away").rename(gone)
    tally.lost += unreadable(folder)
    for gone in (folder / "hierarchy.json", folder / "environment.json"):  # what it makes again
        gone.unlink()
    tally.goes_on(place.file, folder, place.whole)

    folder = place.new()
    process = start(place.file, folder)
    wait_for_epoch(process, folder, 1)
    folder.rename(place.folder / "away-run")
    tally.ended(process, 2, "cannot write")
    shutil.rmtree(folder, ignore_errors=True)
    (place.folder / "away-run").rename(folder)
    tally.goes_on(place.file, folder, place.whole)


@contextlib.contextmanager
def away_after(process: subprocess.Popen, folder: Path, file: Path, epoch: int = 2) -> Iterator[subprocess.Popen]:
    """A file is moved away after an epoch, and comes back in the end."""
    wait_for_epoch(process, folder, epoch)
    away = file.with_name(f"away-{file.name}.away")
    file.rename(away)
    try:
        yield process
    finally:
        away.rename(file)


def stopped(place: Place, folder: Path, epoch: int = 2) -> subprocess.Popen:
    process = start(place.file, folder)
    wait_for_epoch(process, folder, epoch)
    process.terminate()
    process.wait()
    return process


def sigterm(place: Place, tally: Tally) -> None:
    """Somebody asks the process to stop, in an epoch and again after it has gone on."""
    folder = place.new()
    for epoch in (1, 2, 4):
        tally.ended(stopped(place, folder, epoch), 143, "everything is saved")
    tally.goes_on(place.file, folder, place.whole)


def loss_not_finite(place: Place, tally: Tally) -> None:
    """A learning rate that is too large, and a loss that is NaN later on."""
    folder = place.new()
    tally.ended(start(place.file, folder, "optim.lr=1e30"), 2, "the loss", "optim.lr")
    folder = place.new()
    tally.ended(start(place.file, folder, inject="nan"), 2, "the loss is nan", "last good checkpoint")
    tally.goes_on(place.file, folder, place.whole)


def worker_crash(place: Place, tally: Tally) -> None:
    """A process that reads images is killed."""
    file, whole, _ = place.from_files()
    folder = place.new()
    process = start(file, folder)
    wait_for_epoch(process, folder, 2)
    readers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(readers[-1]), signal.SIGKILL)
    tally.ended(process, 2, "a process that reads images has ended", "--resume")
    tally.goes_on(file, folder, whole)


def clock_jump(place: Place, tally: Tally) -> None:
    """The clock is a day ahead, then a day behind, at every second look; in the middle files come from tomorrow."""
    folder = place.new()
    process = start(place.file, folder, inject="clock")
    wait_for_epoch(process, folder, 2)
    process.terminate()
    tally.ended(process, 143, "everything is saved")
    for file in folder.rglob("*"):
        os.utime(file, (time.time() + 86400,) * 2)
    began = time.monotonic()
    process = start(place.file, folder, inject="clock")
    tally.ended(process, 0)
    tally.differing += differing(folder, place.whole)
    seconds = [line["seconds"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "seconds" in line]
    measured = [line["train"] + line["eval"] for line in seconds]
    if measured != sorted(measured) or not 0 < measured[0] <= measured[-1] < 2 * place.seconds + time.monotonic() - began + 60:
        tally.wrong.append(f"the clock shows in the seconds of the run: {measured}")


def memory_full(place: Place, tally: Tally) -> None:
    """torch says that the memory of the device is full; on a CPU, in its name."""
    folder = place.new()
    tally.ended(start(place.file, folder, inject="memory"), 2, "Lower data.batch_size", "state.pt is intact")
    tally.goes_on(place.file, folder, place.whole)


SCENARIOS: list[Callable[[Place, Tally], None]] = [
    disk_full,
    read_only_folder,
    vanished_file,
    sigterm,
    loss_not_finite,
    worker_crash,
    clock_jump,
    memory_full,
]


# ---- what is done inside a disturbed process


def inject_clock() -> None:
    real, looks = time.time, iter(range(10**9))
    time.time = lambda: real() + (86400 if next(looks) % 2 else -86400)
    time.time_ns = lambda: int(time.time() * 1e9)


def inject_nan() -> None:
    _after_batches(40, lambda loss: loss * float("nan"))


def inject_memory() -> None:
    import torch

    def full(loss):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    _after_batches(40, full)


def _after_batches(count: int, change: Callable) -> None:
    """Change the loss from a batch on."""
    from hiercnn.train._task import FlatTask

    forward, calls = FlatTask.forward, iter(range(10**9))

    def changed(self, *arguments):
        loss, terms = forward(self, *arguments)
        return (loss if next(calls) < count else change(loss)), terms

    FlatTask.forward = changed


INJECTED = {"clock": inject_clock, "nan": inject_nan, "memory": inject_memory}


# ---- the whole


def kills(place: Place, wanted: int) -> Tally:
    """Kill until it was killed so often, and bring the last one to its end."""
    tally, victim, in_save = Tally(), place.new(), 0
    while tally.ends < wanted or victim.exists():
        process = start(place.file, victim)
        if tally.ends < wanted and kill(process, victim, place.draw, place.seconds):
            tally.ends += 1
            in_save += savings(victim)
            tally.lost += unreadable(victim)
            continue
        if process.wait():
            sys.exit(f"torture.py: it does not go on after {tally.ends} kills: {process.stderr.read().strip()}; see {victim}")
        tally.resumed += 1
        if wrong := differing(victim, place.whole):
            tally.differing += wrong
            break
        shutil.rmtree(victim)
    print(f"{in_save} of the kills within a save; {tally.resumed} runs brought to their end", flush=True)
    return tally


def main() -> None:
    if sys.argv[1:2] == ["--inject"]:
        from hiercnn.cli import main as command_line

        INJECTED[sys.argv[2]]()
        sys.argv = ["hiercnn", *sys.argv[3:]]
        command_line()
        return
    names = [scenario.__name__ for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--scenarios", nargs="*", choices=names, default=names, help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work, a new folder. Default: a temporary one, removed if all is well")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder, random.Random(options.seed))
    tallies = [kills(place, options.kills)]
    for scenario in SCENARIOS:
        if scenario.__name__ in options.scenarios:
            tally = Tally()
            scenario(place, tally)
            print("\n".join([f"{scenario.__name__.replace('_', ' ')}: {tally}", *tally.wrong]), flush=True)
            tallies.append(tally)
    lost, differ = [each for tally in tallies for each in tally.lost], sum(tally.differing for tally in tallies)
    print("\n".join(lost), end="\n" * bool(lost))
    print(f"kills {options.kills}, differing metrics {differ}, unreadable checkpoints {len(lost)}")
    if differ or lost or any(tally.wrong for tally in tallies):
        sys.exit(1)
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Train many runs, one after another in this process or several at once in processes of their own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hiercnn.errors import CheckpointError, Interrupted, RecipeError, TrainingError, shorten
from hiercnn.recipe import Recipe, Run, build_source, fit, to_yaml
from hiercnn.train import StopRequest, stop_on_signals, world_size

Tell = Callable[[str], None]

ASKED_TO_STOP = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes


@dataclass(frozen=True)
class Job:
    """One run that is wanted: a recipe with its seed, and the folder that holds it."""

    recipe: Recipe
    path: Path

    def __str__(self) -> str:
        return f"{self.path.name.removesuffix(f'-seed{self.recipe.seed}')}, seed {self.recipe.seed}"


def finished_runs(
    jobs: Sequence[Job],
    *,
    processes: int,
    trust_imports: bool,
    tell: Tell,
    may_fail: bool = False,
    check: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Finish every job that is not finished yet and return all runs, in order.

    Args:
        may_fail: Return runs whose loss was not finite (`run.failed`) as they are, instead of raising.
        processes: Runs at once; 1 trains in this process. Several share the cores between them unless OMP_NUM_THREADS is set, and the GPUs,
            one a run in turn; each writes what it has to say to `train.log` in its run folder.
        check: Called with every finished run as soon as it is; what it raises ends the others, which save.
        tell: Called with a line before and, of processes, after each run.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; every run has saved.
        TrainingError: A process failed; what it said is in the message. The others were asked to save and stop.
        RecipeError: Several runs at once, in several processes of torchrun's each.
    """
    if processes > 1 and (size := world_size()) > 1:
        raise RecipeError(f"{processes} runs at once are for one process, and torchrun has started {size}; leave out --jobs, or torchrun")
    given_up = {job.path: Run(job.path) for job in jobs if may_fail and Run(job.path).failed}
    ready = [job for job in jobs if Run(job.path).finished]  # first: those of another recipe are refused before anything is trained
    runs = given_up | {job.path: _finished_run(job, trust_imports, tell, may_fail, check) for job in ready}
    missing = [job for job in jobs if job.path not in runs]
    if processes > 1:
        if missing and (missing[0].recipe.data.model_extra or {}).get("download"):
            build_source(missing[0].recipe)  # fetched once, before several would
        _in_processes(missing, processes, trust_imports, tell, may_fail, check)
        runs |= {job.path: Run(job.path) for job in missing if may_fail and Run(job.path).failed}
        missing, tell, check = [job for job in missing if job.path not in runs], _silence, _silence
    runs |= {job.path: _finished_run(job, trust_imports, tell, may_fail, check) for job in missing}
    return [runs[job.path] for job in jobs]


def _finished_run(job: Job, trust_imports: bool, tell: Tell, may_fail: bool, check: Callable[[Run], None]) -> Run:
    run = Run(job.path)
    if run.finished:
        tell(f"{job}: finished already, in {job.path}")
    else:
        tell(f"{job}{': resuming' if run.exists() else ''}")
    try:
        run = fit(job.recipe, run_dir=job.path, resume=run.exists(), trust_imports=trust_imports)
    except Interrupted as stop:
        raise Interrupted(f"stopped in {job}; everything is saved in {job.path}. Go on with the same command", stop.signal) from None
    except TrainingError as error:
        if not (may_fail and run.failed):
            raise
        tell(f"{job}: given up, {str(error).splitlines()[0]}")
        return run
    check(run)
    return run


def _silence(_: object) -> None:
    pass


# ---- processes ------------------------------------------------------------------------------------------------------


def _in_processes(jobs: list[Job], processes: int, trust_imports: bool, tell: Tell, may_fail: bool, check: Callable[[Run], None]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // processes)
    waiting, running, done = list(jobs), {}, 0
    gpus = visible_gpus()
    free = list(range(processes))  # places; each has a GPU of its own, as far as there are so many
    with tempfile.TemporaryDirectory() as scratch, stop_on_signals() as stop:
        try:
            while (waiting or running) and stop.signal is None:
                while waiting and len(running) < processes:
                    job = waiting.pop(0)
                    place = free.pop(0)
                    gpu = gpus[place % len(gpus)] if gpus else None
                    tell(f"{job}{'' if gpu is None else f', GPU {gpu}'}{': resuming' if Run(job.path).exists() else ''}")
                    running[_start(job, Path(scratch), threads, gpu, trust_imports)] = (job, time.monotonic(), place)
                time.sleep(0.1)
                for process in [process for process in running if process.poll() is not None]:
                    job, began, place = running.pop(process)
                    free.append(place)
                    done += 1
                    if may_fail and process.returncode != 0 and Run(job.path).failed:
                        tell(f"{job}: given up, its loss was not finite ({done} of {len(jobs)})")
                        continue
                    _check(process, job, stop)
                    if process.returncode == 0:
                        tell(f"{job}: done in {time.monotonic() - began:.0f} s ({done} of {len(jobs)})")
                        check(Run(job.path, trust_imports=trust_imports))
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    if stop.signal is not None:
        lost = [job for process, (job, *_) in running.items() if process.returncode not in (0, -signal.SIGTERM, *ASKED_TO_STOP)]
        saved = (
            f"{shorten(lost)} failed (train.log in the run folder), the others have saved" if lost else "every run has saved what it had"
        )
        raise Interrupted(f"stopped; {saved}. Go on with the same command", stop.signal)


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def _start(job: Job, scratch: Path, threads: int, gpu: str | None, trust_imports: bool) -> subprocess.Popen:
    """`hiercnn train` of the job, deaf to the terminal's Ctrl-C: the parent passes its wish on, once."""
    file = scratch / f"{job.path.name}.yaml"
    recipe = job.recipe.model_copy(update={"logging": job.recipe.logging.model_copy(update={"display": "plain"})})
    file.write_text(to_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "hiercnn", "train", str(file), "--run-dir", str(job.path), *["--resume"] * Run(job.path).exists()]
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    try:
        job.path.mkdir(parents=True, exist_ok=True)
        log = open(job.path / "train.log", "ab")  # noqa: SIM115  closed below
    except OSError as error:
        raise CheckpointError(f"cannot write to the run folder {job.path}: {error.strerror}; choose another with --out") from None
    with log:
        return subprocess.Popen(
            command + ["--trust-imports"] * trust_imports, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _check(process: subprocess.Popen, job: Job, stop: StopRequest) -> None:
    if process.returncode == 0:
        return
    if process.returncode in ASKED_TO_STOP:
        stop.signal = process.returncode - 128
        return
    said = (job.path / "train.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
    raise TrainingError(
        f"{job} failed ({_how(process.returncode)}); the others save, and the same command goes on where that is mended."
        f" The end of {job.path / 'train.log'}:\n" + "\n".join(said)
    )


def _how(code: int) -> str:
    """What an exit code of a process says, negative where a signal has ended it."""
    memory = ", as the system does where memory is full" if code == -signal.SIGKILL else ""
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}{memory}"

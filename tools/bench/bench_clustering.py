"""What clustering K classes costs, from vectors [K, F] to the dendrogram, against scipy's pdist and linkage, and fastcluster if installed.

    python tools/bench/bench_clustering.py --out tools/bench/clustering.csv

Every row is a process of its own, so that its peak memory is a peak; times are the least of some repeats, the ratio is to scipy's at the
same size in the same call. On CUDA ours runs there, scipy on that machine's CPU. Before anything is timed, heights must be scipy's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_ops import append

from hiercnn.clustering import cluster, vector_distances
from hiercnn.errors import HierCNNError
from hiercnn.train import device_name, git_commit, pick_device

METRIC = "cosine"


def vectors_of(classes: int, features: int) -> np.ndarray:
    """Means of classes in groups of groups, as a network's are."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(classes, features))
    for groups in (max(2, classes // 5), max(2, classes // 50)):
        found += 2 * rng.normal(size=(groups, features))[rng.integers(0, groups, classes)]
    return found


def ours(vectors: np.ndarray, linkage: str, device: torch.device) -> np.ndarray:
    found = cluster(vector_distances(torch.from_numpy(vectors).to(device), METRIC), linkage).merges
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found


def scipys(vectors: np.ndarray, linkage: str, device: torch.device) -> np.ndarray:
    from scipy.cluster.hierarchy import linkage as agglomerate
    from scipy.spatial.distance import pdist

    return agglomerate(pdist(vectors - vectors.mean(0), METRIC), linkage)


def fastclusters(vectors: np.ndarray, linkage: str, device: torch.device) -> np.ndarray:
    import fastcluster
    from scipy.spatial.distance import pdist

    return fastcluster.linkage(pdist(vectors - vectors.mean(0), METRIC), linkage)


WAYS: dict[str, Callable[[np.ndarray, str, torch.device], np.ndarray]] = {"ours": ours, "scipy": scipys, "fastcluster": fastclusters}


def measure(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds, and MiB above what was there before: of this process, or of the device."""
    device, vectors = pick_device(arguments.device), vectors_of(arguments.classes[0], arguments.features)
    WAYS[way](vectors_of(50, arguments.features), arguments.linkage, device)  # imports, and CUDA's own start
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        merges = WAYS[way](vectors, arguments.linkage, device)
        seconds.append(time.perf_counter() - began)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if way == "ours" and device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**20
    return {"seconds": min(seconds), "memory_mib": memory, "top": float(merges[-1, 2]), "sum": float(merges[:, 2].sum())}


def rows_of(classes: int, arguments: argparse.Namespace) -> list[dict[str, object]]:
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--classes", str(classes), "--features", str(arguments.features)]
        command += ["--linkage", arguments.linkage, "--repeats", str(arguments.repeats), "--device", arguments.device]
        command += ["--threads", str(torch.get_num_threads())]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode == 0:
            found[way] = json.loads(run.stdout)
        elif "No module named 'fastcluster'" not in run.stderr:
            raise HierCNNError(f"{way} at {classes} classes: {run.stderr.strip().splitlines()[-1]}")
    if "scipy" in found and not np.isclose(found["ours"]["sum"], found["scipy"]["sum"], rtol=1e-5):
        raise HierCNNError(
            f"heights of {classes} classes are not scipy's: their sums are {found['ours']['sum']} and {found['scipy']['sum']}"
        )
    return [
        {
            "what": way,
            "classes": classes,
            "features": arguments.features,
            "linkage": arguments.linkage,
            "seconds": float(f"{one['seconds']:.4g}"),
            "scipy_over_it": float(f"{found['scipy']['seconds'] / one['seconds']:.3g}"),
            "memory_mib": round(one["memory_mib"]),
            "repeats": arguments.repeats,
            "device": device_name(pick_device(arguments.device)),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "commit": git_commit(),
        }
        for way, one in found.items()
    ]


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 5000, 21_000])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--linkage", default="average")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="threads of torch; default: torch's")
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    arguments = arguments_of()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments)))
        return
    rows = [row for classes in arguments.classes for row in rows_of(classes, arguments)]
    for made in rows:
        print("  ".join(f"{key} {value}" for key, value in made.items()))
    if arguments.out:
        append(arguments.out, rows)


if __name__ == "__main__":
    try:
        main()
    except HierCNNError as error:
        sys.exit(f"bench_clustering.py: {error}")

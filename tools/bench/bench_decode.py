"""What it costs to read a JPEG and resize it, by Pillow and by torchvision, and how far their pixels are apart.

    python tools/bench/bench_decode.py data/grocery --out tools/bench/decode.csv

One thread; the ways take turns on the same images, so a busy machine slows all; a ratio is the median over rounds of Pillow's time to that
way's. `--side 375` enlarges the photos first and writes them again as JPEG (quality 90), for sets whose photos are small. `pillow` is what
`data: storage` does. torchvision's decoders are deprecated since 0.29.
"""

import argparse
import io
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from bench_ops import append, positive
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from hiercnn.train import device_name, git_commit

UNIT = "pillow"


def ways(size: int) -> dict[str, Callable[[bytes], Tensor]]:
    """From a file's bytes to uint8 [3, size, size]."""
    fit = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])

    def opened(data: bytes, draft: int | None = None) -> Image.Image:
        with Image.open(io.BytesIO(data)) as image:
            if draft:
                image.draft("RGB", (draft, draft))
            return image.convert("RGB")

    def torchvision_decodes(data: bytes) -> Tensor:
        return fit(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))

    return {
        UNIT: lambda data: pil_to_tensor(fit(opened(data))),
        "pillow, draft": lambda data: pil_to_tensor(fit(opened(data, size))),
        "pillow, draft twice the size": lambda data: pil_to_tensor(fit(opened(data, 2 * size))),
        "pillow, torch resizes": lambda data: fit(pil_to_tensor(opened(data))),
        "torchvision, torch resizes": torchvision_decodes,
    }


def photos(folder: Path, count: int, side: int | None) -> list[bytes]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        sys.exit(f"bench_decode.py: no JPEG files below {folder}")
    chosen = np.random.default_rng(0).permutation(len(files))[:count]
    return [files[i].read_bytes() if side is None else enlarged(files[i], side) for i in chosen]


def enlarged(file: Path, side: int) -> bytes:
    """The photo with a short side of `side` pixels, as JPEG."""
    written = io.BytesIO()
    with Image.open(file) as image:
        v2.functional.resize(image.convert("RGB"), side).save(written, "jpeg", quality=90)
    return written.getvalue()


def rows_of(images: list[bytes], size: int, arguments: argparse.Namespace) -> list[dict[str, object]]:
    ready = ways(size)
    differences = {name: pixel_differences(way, ready[UNIT], images) for name, way in ready.items()}
    times = {name: [] for name in ready}
    for _ in range(arguments.rounds):
        for name, way in ready.items():
            start = time.process_time()
            for data in images:
                way(data)
            times[name].append((time.process_time() - start) / len(images) * 1e3)
    return [
        {
            "what": name,
            "photos": arguments.side or "as they are",
            "size": size,
            "median_ms": round(float(np.median(spent)), 3),
            "times_faster": round(float(np.median(np.divide(times[UNIT], spent))), 2),
            "largest_difference": differences[name][0],
            "mean_difference": differences[name][1],
            "images": len(images),
            "rounds": arguments.rounds,
            "device": device_name(torch.device("cpu")),
            "pillow": PIL.__version__,
            "torchvision": torchvision.__version__,
            "commit": git_commit(),
        }
        for name, spent in times.items()
    ]


def pixel_differences(way: Callable[[bytes], Tensor], unit: Callable[[bytes], Tensor], images: list[bytes]) -> tuple[int, float]:
    """Largest and mean difference of a pixel, of 255."""
    apart = [(way(data).int() - unit(data).int()).abs() for data in images]
    return max(int(values.max()) for values in apart), round(float(np.mean([values.float().mean() for values in apart])), 4)


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with JPEG files, however deep")
    parser.add_argument("--sizes", type=positive, nargs="+", default=[64, 96, 224])
    parser.add_argument("--images", type=positive, default=200)
    parser.add_argument("--side", type=positive, help="short side that the photos are enlarged to first")
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
    images = photos(arguments.folder, arguments.images, arguments.side)
    for size in arguments.sizes:
        rows = rows_of(images, size, arguments)
        for made in rows:
            print("  ".join(f"{key} {value}" for key, value in list(made.items())[:7]))
        if arguments.out:
            append(arguments.out, rows)


if __name__ == "__main__":
    main()

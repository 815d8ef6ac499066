"""Photos a second: our image loading against torch's DataLoader with plain Pillow, on the same files.

    python -m tests.bench.bench_images                              photos drawn here, 800 x 1000 pixels
    python -m tests.bench.bench_images --folder my_photos --workers 2

Ours decodes, turns upright, lays alpha over white, guards against damage and bombs, pads (TargetPad 1.25), resizes to 224 and
crops, as every command does. The plain way is ``Image.open(path).convert("RGB")``, the same padding and size, no guard. A third
line is ours with ``--cache-images``, from its second epoch on. All take turns with the same number of loader processes. Peak
memory is that of a process that loads everything twice in one of the ways, without loader processes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tests.bench.memory import peak_of
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unifashion.data.batches import Photos
from unifashion.data.image_files import SUFFIXES
from unifashion.data.images import ImageTransform
from unifashion.training.run_folder import machine

SIZE = 224


class Plain:
    """What one writes in five minutes."""

    def __call__(self, path: Path) -> Tensor:
        """Return (3, S, S) uint8."""
        image = Image.open(path).convert("RGB")
        width, height = image.size
        if max(width, height) / min(width, height) >= 1.25:
            side = max(width, height) / 1.25
            x, y = (max(int((side - edge) / 2), 0) for edge in (width, height))
            padded = Image.new("RGB", (width + 2 * x, height + 2 * y))
            padded.paste(image, (x, y))
            image = padded
        scale = SIZE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Files(Dataset[Tensor]):
    """Photos by number."""

    def __init__(self, paths: Sequence[Path], load: Photos | Plain) -> None:
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.load(self.paths[index])


def draw(folder: Path, count: int) -> list[Path]:
    """Write photo-like JPEG files: smooth colour with noise."""
    chance, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(chance.integers(0, 255, (25, 20, 3), np.uint8)).resize((800, 1000))
        noisy = np.asarray(coarse).astype(int) + chance.integers(-8, 9, (1000, 800, 3))
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def photos_per_second(files: Files, workers: int) -> float:
    """Return the throughput of one pass."""
    started = time.perf_counter()
    for _ in DataLoader(files, batch_size=32, num_workers=workers):
        pass
    return len(files) / (time.perf_counter() - started)


def load_twice(files: Files) -> None:
    """Load every photo two times."""
    for _ in range(2):
        photos_per_second(files, 0)


def main() -> None:
    """Compare, and print photos a second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="photos to load; default: drawn ones")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--turns", type=int, default=3)
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, Pillow {Image.__version__}, {flags.workers} loader processes")
    with tempfile.TemporaryDirectory() as folder:
        if flags.folder is None:
            paths = draw(Path(folder), flags.images)
        else:
            paths = sorted(p for p in flags.folder.rglob("*") if p.suffix.lower() in SUFFIXES)[: flags.images]
        transform = ImageTransform(SIZE)
        loads = {"plain Pillow": Plain(), "ours": Photos(transform), "ours, pixels kept": Photos(transform, keep=True)}
        speeds: dict[str, list[float]] = {name: [] for name in loads}
        for turn in range(flags.turns + 1):
            for name, load in loads.items():
                speed = photos_per_second(Files(paths, load), flags.workers)
                if turn:
                    speeds[name].append(speed)
        memory = {name: peak_of(load_twice, Files(paths, load)) for name, load in loads.items()}
    base = statistics.median(speeds["plain Pillow"])
    print(f"{len(paths)} photos, median of {flags.turns} turns")
    for name, values in speeds.items():
        speed = statistics.median(values)
        print(f"  {name}: {speed:.0f} photos a second, {speed / base:.2f} x, peak {memory[name]:.2f} GiB")


if __name__ == "__main__":
    main()

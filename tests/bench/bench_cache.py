"""An epoch of phase 1 that reads the feature cache against one that asks the frozen tower, and what filling the cache takes.

    python -m tests.bench.bench_cache                      CLIP's ViT-L/14 (21 blocks, 1024 wide), 32 photos of 224 pixels
    python -m tests.bench.bench_cache --tower vitg         EVA's ViT-g/14 (39 blocks, 1408 wide): minutes on a CPU

Photos are drawn by the embedded catalogue at 256 pixels and lie on the disk as JPEG; tower and full-size Q-Former are random.
An epoch decodes (or reads the cache), runs the tower (or not), computes the losses of ``blip2_cir_cls``, their gradients and an
AdamW step. The two ways take turns on the same batches, after their losses on the first batch were shown to agree within what
the cache's form rounds off. Peak memory is that of a process that trains one epoch in one way.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tests.bench.memory import peak_of
from torch import Tensor

from unifashion.apps.toy_catalogue.write import Sizes, write_catalogue
from unifashion.config import DataSettings, TrainingSettings
from unifashion.data.batches import PairRows, Photos, TrainingSet, collate
from unifashion.data.fashiongen import read_fashiongen
from unifashion.data.feature_cache import TOWER_HASH_SIZE, FeatureCache, key_of
from unifashion.data.images import ImageTransform
from unifashion.models.presets import build_config
from unifashion.models.pretrained import weights_hash
from unifashion.models.tokenizer import DEC, train_wordpiece
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.run_folder import machine
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.tasks.task import Position

BATCH = 8


TOLERANCE = {"fp16": 1e-3, "int8": 1e-2}  # of the loss


class Ways:
    """One model, and the same rows read from the cache and from the photos."""

    def __init__(self, folder: Path, flags: argparse.Namespace) -> None:
        photos = Photos(ImageTransform(224))
        plain = PairRows(read_fashiongen(folder / "catalogue", "train").pairs[: flags.images], photos)
        self.model = make_model(plain, flags.tower)
        key = key_of(weights_hash(self.model.vision.state_dict(), TOWER_HASH_SIZE), photos.transform, flags.form, "no")
        self.cache = FeatureCache(folder / "features", key, flags.form, photos)
        self.rows = dataclasses.replace(plain, photos=self.cache), plain

    def fill(self) -> float:
        """Fill the cache and return the seconds that it took."""
        started = time.perf_counter()
        with torch.no_grad():
            self.cache.fill(self.rows[0].images(), self.model.vision, BATCH, progress=False)
        return time.perf_counter() - started

    def mebibytes(self) -> float:
        """Return the cache's size on the disk, per photo."""
        return sum(path.stat().st_size for path in self.cache.folder.rglob("*.npy")) / 2**20 / len(self.rows[0])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the sum of the losses, as training computes them."""
        torch.manual_seed(0)
        task = CrossModalTask(self.model, TrainingSettings())
        return task.total(task(task.prepare(batch, Position(0, 0, 0, 0))))

    def batches(self, way: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches in file order."""
        dataset = TrainingSet(self.rows[way], 0)
        for start in range(0, len(self.rows[way]) - BATCH + 1, BATCH):
            yield collate([dataset[0, index] for index in range(start, start + BATCH)], self.model.tokenize)

    @torch.no_grad()
    def first_loss(self, way: int) -> float:
        """Return the loss on the first batch."""
        return self.loss(next(self.batches(way))).item()

    def make_epoch(self, way: int) -> Callable[[], None]:
        """Return a function that trains one epoch."""
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-6, fused=True)

        def epoch() -> None:
            for batch in self.batches(way):
                self.loss(batch).backward()
                optimizer.step()
                optimizer.zero_grad()

        return epoch


def make_model(rows: PairRows, tower: str) -> UniFashionModel:
    """Return a full-size model of phase 1 with random weights and its tower frozen."""
    torch.manual_seed(0)
    tokenizer = train_wordpiece(pair.text for pair in rows.pairs)
    dec = int(tokenizer.convert_tokens_to_ids(DEC))  # type: ignore[arg-type]
    config = build_config("blip2_cir_cls", tower, len(tokenizer), dec, DataSettings())
    config = dataclasses.replace(config, qformer=dataclasses.replace(config.qformer, dropout=0.0))
    model = UniFashionModel(config, tokenizer)
    model.vision.freeze()
    return model.train()


def train_once(way: int, folder: Path, flags: argparse.Namespace) -> None:
    """Train one epoch in one way; the cache is full."""
    Ways(folder, flags).make_epoch(way)()


def main() -> None:
    """Compare, and print seconds, ratio, disk and memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tower", choices=("vitl", "vitg"), default="vitl")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--form", choices=("fp16", "int8"), default="fp16")
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write_catalogue(folder / "catalogue", Sizes(20, 4, 8, 4, 4, 8, 4, side=256), progress=False)
        ways = Ways(folder, flags)
        filling, disk = ways.fill(), ways.mebibytes()
        print(
            f"{flags.tower}, {len(ways.rows[0])} photos, batch {BATCH}, cache in {flags.form}: {disk:.2f} MiB a photo"
        )
        first = [ways.first_loss(way) for way in (0, 1)]
        print(f"  loss on the first batch: with the cache {first[0]:.5f}, with the tower {first[1]:.5f}")
        assert abs(first[0] - first[1]) < TOLERANCE[flags.form] * first[1], first
        epochs = [ways.make_epoch(way) for way in (0, 1)]
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(flags.turns):
            for way, epoch in enumerate(epochs):
                started = time.perf_counter()
                epoch()
                seconds[way].append(time.perf_counter() - started)
        del ways, epochs
        memory = [peak_of(train_once, way, folder, flags) for way in (0, 1)]
    cached, plain = map(statistics.median, seconds)
    print(f"  seconds an epoch: with the cache {cached:.1f}, with the tower {plain:.1f}: {plain / cached:.1f} x faster")
    print(f"  peak memory: with the cache {memory[0]:.2f} GiB, with the tower {memory[1]:.2f} GiB")
    print(f"  filling the cache once: {filling:.1f} s")


if __name__ == "__main__":
    main()

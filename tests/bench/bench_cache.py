"""An epoch of phase 1 that reads the feature cache against one that asks the frozen tower, and what filling the cache takes.

    python -m tests.bench.bench_cache                      CLIP's ViT-L/14 (21 blocks, 1024 wide), 32 photos of 224 pixels
    python -m tests.bench.bench_cache --tower vitg         EVA's ViT-g/14 (39 blocks, 1408 wide): minutes on a CPU

Photos are drawn by the embedded catalogue at 256 pixels and lie on the disk as JPEG; tower and full-size Q-Former are random.
An epoch decodes (or reads the cache), runs the tower (or not), computes the losses of ``blip2_cir_cls``, their gradients and an
AdamW step. The two ways take turns on the same batches; that their first losses agree within fp16 is checked.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from unifashion.config import DataSettings, TrainingSettings
from unifashion.data.batches import Collate, PairRows, Photos, TrainingSet
from unifashion.data.catalogue.write import Sizes, write_catalogue
from unifashion.data.fashiongen import read_fashiongen
from unifashion.data.feature_cache import FeatureCache, key_of
from unifashion.data.images import ImageTransform, normalise
from unifashion.models.presets import build_config
from unifashion.models.tokenizer import DEC, train_wordpiece
from unifashion.models.unifashion import UniFashion
from unifashion.training.run_folder import machine
from unifashion.training.tasks import CrossModalTask

BATCH = 8


def make_model(rows: PairRows, tower: str) -> UniFashion:
    """Return a full-size model of phase 1 with random weights and its tower frozen."""
    torch.manual_seed(0)
    tokenizer = train_wordpiece(pair.text for pair in rows.pairs)
    dec = int(tokenizer.convert_tokens_to_ids(DEC))  # type: ignore[arg-type]
    config = build_config("blip2_cir_cls", tower, len(tokenizer), dec, DataSettings())
    config = dataclasses.replace(config, qformer=dataclasses.replace(config.qformer, dropout=0.0))
    model = UniFashion(config, tokenizer)
    model.vision.freeze()
    return model.train()


def make_epoch(model: UniFashion, rows: PairRows) -> Callable[[], list[float]]:
    """Return a function that trains one epoch in file order and returns the losses."""
    task, dataset = CrossModalTask(model, TrainingSettings()), TrainingSet(rows, 0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    collate = Collate(model.tokenize)

    def batches() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(rows) - BATCH + 1, BATCH):
            yield collate([dataset[0, index] for index in range(start, start + BATCH)])

    def epoch() -> list[float]:
        losses = []
        for batch in batches():
            torch.manual_seed(0)
            if batch["image"].dtype == torch.uint8:
                batch["image"] = normalise(batch["image"])
            loss = sum(task(batch).values(), torch.zeros(()))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    return epoch


def main() -> None:
    """Compare, and print seconds, ratio and disk."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tower", choices=("vitl", "vitg"), default="vitl")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--form", choices=("fp16", "int8"), default="fp16")
    flags = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        root = write_catalogue(Path(folder) / "c", Sizes(20, 4, 8, 4, 4, 8, 4, side=256), progress=False)
        photos = Photos(ImageTransform(224))
        rows = PairRows(read_fashiongen(root, "train").pairs[: flags.images], photos)
        model = make_model(rows, flags.tower)
        key = key_of(model.vision, photos.transform, flags.form, "no")
        cache = FeatureCache(Path(folder) / "features", key, flags.form, photos)
        started = time.perf_counter()
        with torch.no_grad():
            cache.fill(rows.images(), model.vision, BATCH, progress=False)
        filling = time.perf_counter() - started
        disk = sum(path.stat().st_size for path in cache.folder.rglob("*.npy")) / 2**20 / len(rows)
        epochs = [make_epoch(model, dataclasses.replace(rows, photos=load)) for load in (cache, photos)]
        seconds: tuple[list[float], list[float]] = ([], [])
        first: list[float] = []
        for _ in range(flags.turns):
            for side, epoch in enumerate(epochs):
                started = time.perf_counter()
                losses = epoch()
                seconds[side].append(time.perf_counter() - started)
                first = [*first, losses[0]][:2]
    cached, plain = map(statistics.median, seconds)
    print(f"{flags.tower}, {len(rows)} photos, batch {BATCH}, cache in {flags.form}: {disk:.2f} MiB a photo")
    print(f"  first loss: with the cache {first[0]:.4f}, with the tower {first[1]:.4f}")
    print(f"  seconds an epoch: with the cache {cached:.1f}, with the tower {plain:.1f}: {plain / cached:.1f} x faster")
    print(f"  filling the cache once: {filling:.1f} s")


if __name__ == "__main__":
    main()

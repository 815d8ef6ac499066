"""Image tokens of a frozen tower, computed once and read from disk from then on.

    key = key_of(weights_hash(tower.state_dict(), TOWER_HASH_SIZE), transform, "fp16", "no")
    cache = FeatureCache(Path("features"), key, "fp16", photos)
    cache.fill(paths, encode, batch_size=64)      # what is cached is not computed again
    tokens_NW = cache(path)                       # the tower's tokens of one image; a drop-in for ``Photos``

    features/3f9a.../about.json                   the settings that the key is a hash of
    features/3f9a.../<name>/tokens.npy            (rows, N, W) fp16, or int8 with scales.npy (rows, N): a finished shard
    features/3f9a.../<name>/images.txt            one line per row: the hash of the image's bytes

The key covers the tower's weights, the preprocessing and the number format; a row is looked up by the image's content, so a
photo that changed is computed again and one that moved is not. A shard appears whole or not at all: any number of processes may
fill one cache, and the shards they finished survive a kill. Shapes: N image tokens, W width.
"""

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tokenize import TokenError
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unifashion.data.image_files import is_there
from unifashion.data.images import MAX_BYTES, ImageError, ImageTransform, normalise
from unifashion.errors import UserError
from unifashion.io import disk_errors, file_hash, replacing_folder, write_json

log = logging.getLogger(__name__)

Form = Literal["fp16", "int8"]
FORMS: tuple[str, ...] = get_args(Form)
SHARD_BYTES = 128 * 2**20
RESERVE = 2**30  # bytes of the disk that a cache leaves free
TOWER_HASH_SIZE = 12  # bytes; another size would change the names, and earlier caches would not be found

# What numpy raises on damaged files, whose headers are read as Python.
DAMAGED = (
    *(OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError),
    *(SyntaxError, RecursionError, TokenError),
)

Load = Callable[[Path], Tensor]
Encode = Callable[[Tensor], Tensor]


def key_of(tower_hash: str, transform: ImageTransform, form: Form, precision: str) -> tuple[str, dict[str, object]]:
    """Return the name of a cache, and the settings that it is a hash of.

    Args:
        tower_hash: ``weights_hash`` of the frozen tower, of ``TOWER_HASH_SIZE`` bytes.
        transform: size and padding.
        form: number format in the files.
        precision: what the tower computes in, such as "no" or "bf16".
    """
    settings: dict[str, object] = {
        "tower": tower_hash,
        "image_size": transform.size,
        "pad": transform.pad,
        "pad_ratio": transform.ratio,
        "form": form,
        "precision": precision,
    }
    name = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=TOWER_HASH_SIZE).hexdigest()
    return name, settings


class FeatureCache:
    """One cache of one tower. Called with a path it returns the image's tokens (N, W) in float16."""

    def __init__(self, folder: Path, key: tuple[str, dict[str, object]], form: Form, load: Load) -> None:
        """Open the cache below ``folder``, making it if needed.

        Args:
            folder: the folder of all caches.
            key: from ``key_of``.
            form: "fp16", or "int8" with one scale per token (half the space).
            load: pixels (3, S, S) uint8 of an image, such as ``Photos``.

        Raises:
            UserError: the folder cannot be written.
        """
        name, settings = key
        self.folder, self.form, self.load = folder / name, form, load
        self._row: dict[str, tuple[Path, int]] = {}
        self._digest: dict[Path, str] = {}
        self._open: dict[Path, tuple[np.ndarray, np.ndarray | None]] = {}
        with disk_errors(folder, "name another folder for --feature-cache"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "about.json", settings)
        self.reload()

    def __len__(self) -> int:
        return len(self._row)

    def __getstate__(self) -> dict[str, object]:
        # Sent to loader processes, which map the shards themselves: pickling an open one would copy all of its tokens.
        return {**self.__dict__, "_open": {}}

    def __call__(self, path: Path) -> Tensor:
        """Return the tokens (N, W), float16.

        Raises:
            ImageError: the image is missing, broken, or was not there when the cache was filled.
        """
        entry = self._row.get(self._digest_of(path))
        if entry is None:
            self.load(path)  # a broken image raises here, with its own reason
            raise ImageError(path, "it changed after the feature cache was filled; start again")
        shard, row = entry
        if shard not in self._open:
            try:
                self._open[shard] = _arrays(shard, self.form)
            except DAMAGED as error:
                raise UserError(
                    f"{shard} was damaged while it was in use ({error}); run the same command again"
                ) from None
        tokens, scales = self._open[shard]
        tokens_NW = torch.from_numpy(np.array(tokens[row]))
        if scales is not None:
            tokens_NW = (tokens_NW.float() * torch.from_numpy(np.array(scales[row]))[:, None]).half()
        if not tokens_NW.isfinite().all():
            raise UserError(f"{shard}, row {row}: holds numbers that are not finite; remove {shard} and start again")
        return tokens_NW

    def reload(self) -> None:
        """Read the list of shards again, for those that other processes have finished; damaged ones are removed."""
        for shard in sorted(self.folder.iterdir()):
            if shard.name.startswith(".") or not shard.is_dir():
                continue
            try:
                images = (shard / "images.txt").read_text(encoding="ascii").split()
                if len(images) != len(_arrays(shard, self.form)[0]):
                    raise ValueError("its files differ in their number of rows")
            except DAMAGED as error:
                log.warning("%s is damaged and is removed (%s); its images are computed again", shard, error)
                shutil.rmtree(shard, ignore_errors=True)
                continue
            for row, digest in enumerate(images):
                self._row.setdefault(digest, (shard, row))

    def fill(
        self,
        paths: Sequence[Path],
        encode: Encode,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        progress: bool = True,
    ) -> None:
        """Compute the images that lack tokens; broken ones are left out and raise when they are requested.

        Args:
            paths: the images that a run will read; equal contents are computed once.
            encode: the tower: normalised pixels (B, 3, S, S) on the CPU -> tokens (B, N, W).
            batch_size: images per call of ``encode``.
            share: (rank, number of ranks): of n ranks, this process computes every n-th missing image.
            progress: show progress bars.

        Raises:
            UserError: the disk has too little room, or the tower returns numbers that the form cannot hold.
        """
        wanted = {digest: path for path, digest in self._digests(paths, progress) if digest}
        missing = sorted(
            digest for digest in wanted if digest not in self._row
        )  # one order on all ranks, for their shares
        if not missing:
            return
        rank, num_ranks = share
        self._check_room(len(missing), encode, wanted[missing[0]])
        shard = _Shard(self.folder, self.form)
        mine = missing[rank::num_ranks]
        bar = tqdm(total=len(mine), desc="image features", unit="image", disable=not progress, dynamic_ncols=True)
        try:
            for start in range(0, len(mine), batch_size):
                part = mine[start : start + batch_size]
                pixels = {digest: self._pixels(wanted[digest]) for digest in part}
                read = {digest: tensor for digest, tensor in pixels.items() if tensor is not None}
                if read:
                    shard.add(list(read), encode(normalise(torch.stack(list(read.values())))))
                bar.update(len(part))
        finally:  # an interrupted fill keeps what it has computed
            shard.finish()
            bar.close()
        self.reload()

    def _pixels(self, path: Path) -> Tensor | None:
        try:
            return self.load(path)
        except ImageError:
            return None

    def _check_room(self, num_images: int, encode: Encode, example: Path) -> None:
        """Log how much space the cache will take; raises ``UserError`` if it does not fit."""
        pixels = self._pixels(example)
        if pixels is None:
            return
        _, num_tokens, width = encode(normalise(pixels[None])).shape
        per_image = num_tokens * (width * 2 if self.form == "fp16" else width + 4)
        need, free = num_images * per_image, shutil.disk_usage(self.folder).free
        sizes = f"{num_images} images x {num_tokens} tokens x {width} in {self.form} = {need / 2**30:.2f} GiB"
        log.info("feature cache %s: %s, %.1f GiB free", self.folder, sizes, free / 2**30)
        if need + RESERVE > free:
            raise UserError(
                f"--feature-cache {self.folder.parent}: {sizes} do not fit, {free / 2**30:.1f} GiB are free; "
                "name a folder on a larger disk, use --feature-form int8, or train without the cache"
            )

    def _digests(self, paths: Sequence[Path], progress: bool) -> Iterable[tuple[Path, str]]:
        unique = list(dict.fromkeys(paths))
        with ThreadPoolExecutor() as pool:
            digests = pool.map(self._digest_of, unique)
            yield from zip(
                unique, tqdm(digests, "hashing images", len(unique), disable=not progress, leave=False), strict=True
            )

    def _digest_of(self, path: Path) -> str:
        """Return the hash of an image's bytes (of its pixels, for one inside another file); "" if it cannot be read."""
        if path not in self._digest:
            try:
                self._digest[path] = file_hash(path, MAX_BYTES) if is_there(path) else self._pixel_hash(path)
            except (ImageError, OSError):
                return ""
        return self._digest[path]

    def _pixel_hash(self, path: Path) -> str:
        return hashlib.blake2b(self.load(path).numpy().tobytes(), digest_size=16).hexdigest()


def _arrays(shard: Path, form: Form) -> tuple[np.ndarray, np.ndarray | None]:
    """Map the tokens (rows, N, W) of a shard, and the scales (rows, N) of int8; raises one of ``DAMAGED``."""
    tokens = np.load(shard / "tokens.npy", mmap_mode="r")
    scales = np.load(shard / "scales.npy", mmap_mode="r") if form == "int8" else None
    if tokens.ndim != 3 or tokens.dtype != (np.float16 if scales is None else np.int8):
        raise ValueError(f"its tokens are {tokens.dtype} {list(tokens.shape)}")
    if scales is not None and (scales.shape, scales.dtype) != (tokens.shape[:2], np.float32):
        raise ValueError(f"its scales are {scales.dtype} {list(scales.shape)}")
    return tokens, scales


class _Shard:
    """Rows waiting to be written; a shard's folder gets its name when everything is in it."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.folder, self.form = folder, form
        self._images: list[str] = []
        self._tokens: list[Tensor] = []
        self._bytes = 0

    def add(self, images: list[str], tokens_BNW: Tensor) -> None:
        """Add rows, and write a shard when there are enough."""
        tokens_BNW = tokens_BNW.detach().float().cpu()
        if not tokens_BNW.isfinite().all():
            raise UserError("the tower's tokens are not finite: its weights are damaged; fetch or train them again")
        if self.form == "fp16" and not tokens_BNW.abs().max() < torch.finfo(torch.float16).max:
            raise UserError("the tower's tokens do not fit into fp16; use --feature-form int8")
        self._images += images
        self._tokens.append(tokens_BNW.half() if self.form == "fp16" else tokens_BNW)
        self._bytes += tokens_BNW.numel() * 2
        if self._bytes >= SHARD_BYTES:
            self.finish()

    def finish(self) -> None:
        """Write the waiting rows."""
        if not self._images:
            return
        tokens = torch.cat(self._tokens)
        # Durable: after a power cut, a shard with its name but without its bytes would be read as tokens of zeros.
        with replacing_folder(self.folder / secrets.token_hex(8), durable=True) as shard:
            if self.form == "int8":
                # One scale per token: tokens of one image differ widely in magnitude.
                scales = tokens.abs().amax(dim=-1) / 127
                tokens = (tokens / scales.clamp_min(1e-12)[..., None]).round().to(torch.int8)
                np.save(shard / "scales.npy", scales.numpy())
            np.save(shard / "tokens.npy", tokens.numpy())
            (shard / "images.txt").write_text("\n".join(self._images) + "\n", encoding="ascii")
        self._images, self._tokens, self._bytes = [], [], 0

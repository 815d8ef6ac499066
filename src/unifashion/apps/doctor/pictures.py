"""Images that cannot be used, and duplicates: an image in two splits may be an answer that was seen in training.

Every image is decoded as training decodes it. Copies are recognised by their bytes; images that were saved again, in another size
or format, by a difference hash: the picture in grey at 17 x 16, each pixel brighter than its right neighbour or not, 256 bits.
Up to ``ALIKE`` differing bits count as alike. Of 900 photos of products, half of all pairs differ in 79 bits and
one pair in ten thousand in 11 or fewer; a photo saved again at two thirds of its size and JPEG quality 60 differs in up to 9.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from unifashion.apps.doctor.findings import SetReport
from unifashion.data.images import ImageError, load_image

ALIKE = 6  # of 256 bits: nearly all copies, and few photos of other products
_SHAPE = (17, 16)
_FLAT = 24  # a hash with fewer bits set belongs to a plain surface, and all plain surfaces look alike


@dataclass(frozen=True)
class Seen:
    """One image: the hash of its bytes, its difference hash (32 bytes), or why it cannot be used."""

    content: bytes
    look: bytes
    fault: str = ""


def look_at(path: Path) -> Seen:
    """Decode one image."""
    try:
        image = load_image(path)
        content = path.read_bytes() if path.is_file() else image.tobytes()
    except ImageError as error:
        return Seen(b"", b"", error.reason)
    except OSError as error:
        return Seen(b"", b"", f"cannot be read ({error.strerror})")
    grey = np.asarray(image.convert("L").resize(_SHAPE, Image.Resampling.BILINEAR), np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    return Seen(hashlib.blake2b(content, digest_size=16).digest(), bits.tobytes())


def look_at_all(paths: Sequence[Path], num_processes: int, progress: bool) -> dict[Path, Seen]:
    """Decode all images, in parallel where there are many."""
    unique = sorted(set(paths))
    bar = tqdm(total=len(unique), desc="checking images", unit="image", disable=not progress, dynamic_ncols=True)
    seen: dict[Path, Seen] = {}
    with bar:
        if len(unique) < 64 or num_processes < 2:
            for path in unique:
                seen[path] = look_at(path)
                bar.update()
            return seen
        with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
            for path, result in zip(unique, pool.map(look_at, unique, chunksize=32), strict=True):
                seen[path] = result
                bar.update()
    return seen


def report_pictures(report: SetReport, splits: Mapping[str, Sequence[Path]], seen: Mapping[Path, Seen]) -> None:
    """Report which images are broken, and which ones two splits share.

    Args:
        report: gets the findings.
        splits: the images of each split.
        seen: from ``look_at_all``.
    """
    paths = sorted({path for split in splits.values() for path in split})
    broken = [f"{path}: {seen[path].fault}" for path in paths if seen[path].fault]
    if broken:
        report.problem(f"{len(broken):,} images cannot be used; fetch them again", broken)
    names = list(splits)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            _report_shared(report, (first, splits[first]), (second, splits[second]), seen)


def _report_shared(
    report: SetReport, one: tuple[str, Sequence[Path]], other: tuple[str, Sequence[Path]], seen: Mapping[Path, Seen]
) -> None:
    (first, first_paths), (second, second_paths) = one, other
    same = _same_content(first_paths, second_paths, seen)
    if same:
        where = f"{first} and {second}"
        report.problem(f"{len(same):,} images are in both {where}, byte for byte; remove them from one", _pairs(same))
    known = {path for pair in same for path in pair}  # a copy also looks alike, which would be reported twice
    alike = _same_look(
        [path for path in first_paths if path not in known], [path for path in second_paths if path not in known], seen
    )
    if alike:
        report.note(
            f"{len(alike):,} images of {second} look like one of {first} (difference hash); compare them", _pairs(alike)
        )


def _pairs(pairs: Sequence[tuple[Path, Path]]) -> list[str]:
    return [f"{first} = {second}" for first, second in pairs]


def _same_content(first: Sequence[Path], second: Sequence[Path], seen: Mapping[Path, Seen]) -> list[tuple[Path, Path]]:
    by_content = {seen[path].content: path for path in first if not seen[path].fault}
    return [
        (by_content[seen[path].content], path)
        for path in dict.fromkeys(second)
        if not seen[path].fault and seen[path].content in by_content
    ]


def _same_look(first: Sequence[Path], second: Sequence[Path], seen: Mapping[Path, Seen]) -> list[tuple[Path, Path]]:
    """Return pairs at most ``ALIKE`` bits apart.

    Cut into ``ALIKE + 1`` parts, two such hashes agree in at least one part, as ``ALIKE`` differing bits touch at most ``ALIKE``
    parts. So only images with an equal part are compared, not all with all.
    """
    parts = ALIKE + 1
    index: dict[tuple[int, bytes], list[Path]] = defaultdict(list)
    for path in dict.fromkeys(first):
        for key in _keys(seen[path].look, parts):
            index[key].append(path)
    alike = []
    for path in dict.fromkeys(second):
        near = {other for key in _keys(seen[path].look, parts) for other in index.get(key, ())}
        best = min(near, key=lambda other: (_distance(seen[path].look, seen[other].look), other), default=None)
        if best is not None and _distance(seen[path].look, seen[best].look) <= ALIKE:
            alike.append((best, path))
    return alike


def _keys(look: bytes, parts: int) -> list[tuple[int, bytes]]:
    if not look or int.from_bytes(look, "big").bit_count() < _FLAT:
        return []
    size = -(-len(look) // parts)
    return [(index, look[index * size : (index + 1) * size]) for index in range(parts)]


def _distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()

"""Which photos get a caption, which words may help to write it, and which may not (the leak guard).

Fashion-IQ's released captions of the val targets were written with the queries' own sentences, so that retrieval with them
needs no image at all. Here sentences of shoppers are used only where ``guidance`` is asked for, only for train images, and never
for an image that is also in a val or test gallery. ``allow_leaky_captions`` lifts this, and the files then say so
(``text_guidance``); the readers of the data refuse such files by default.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from unifashion.apps.fashioniq_captions.prompts import kind_of
from unifashion.apps.fashioniq_captions.settings import PhotoSettings, data_root
from unifashion.data import fashiongen, fashioniq, tryon
from unifashion.data.annotations import NoSplit, read_json_list
from unifashion.data.hdf5_images import split_member
from unifashion.data.image_files import SUFFIXES, find_images, list_images
from unifashion.errors import UserError

log = logging.getLogger(__name__)

FOLDER = "captions_llava"


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to caption.

    name: its id in the output. group: the file that its caption belongs to (FashionIQ: the category). kind: which prompt it gets.
    guidance: what shoppers wrote about it, empty by default.
    """

    name: str
    image: Path
    kind: str
    group: str = ""
    guidance: str = ""

    @property
    def key(self) -> str:
        """Return what identifies the photo within its data set."""
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class PhotoList:
    """The photos of one split, the names of those that are listed but not on disk, and the folder for the captions."""

    photos: tuple[Photo, ...]
    missing: tuple[str, ...]
    folder: Path


def read_photos(settings: PhotoSettings) -> PhotoList:
    """Return the photos to caption, in the order of the annotations.

    Raises:
        UserError: no such data; guidance that would leak; guidance for a set without sentences.
        NoSplit: the set or the split does not exist.
    """
    root = data_root(settings)
    if settings.guidance and settings.dataset != "fashioniq":
        raise UserError(f"--guidance: only fashioniq has sentences of shoppers, {settings.dataset} has none")
    if settings.guidance and settings.split != "train" and not settings.allow_leaky_captions:
        raise UserError(
            f"--guidance with --split {settings.split} writes the words of the queries into the captions of their targets, so "
            "any score with them is worthless; drop --guidance, or add --allow-leaky-captions and every score is marked leaky"
        )
    readers = {"fashioniq": _fashioniq, "fashiongen": _fashiongen, "vitonhd": _vitonhd, "images": _images}
    listed = readers[settings.dataset](root.absolute(), settings)
    if not listed.photos:
        raise UserError(
            f"{settings.dataset} {settings.split}: no photo is in {listed.folder.parent} ({len(listed.missing)} are listed); "
            "fetch the images first, see dataset/README.md"
        )
    return listed


def _fashioniq(root: Path, settings: PhotoSettings) -> PhotoList:
    home = fashioniq.find_root(root)
    held_out = set() if settings.allow_leaky_captions else _evaluation_names(home)
    photos: list[Photo] = []
    missing: list[str] = []
    for category in fashioniq.CATEGORIES:
        split = fashioniq.read_fashioniq(home, category, settings.split, allow_leaky=True)
        guidance: dict[str, str] = {}
        for query in split.queries if settings.guidance else ():
            # The sentences of a query describe its target, which must not be so described if it is in an evaluation gallery too.
            if query.target is not None and query.target not in held_out:
                guidance.setdefault(
                    query.target, ", ".join(sentence.strip() for sentence in query.feedback).capitalize()
                )
        photos += [
            Photo(name, path, kind_of(category), category, guidance.get(name, ""))
            for name, path in split.images.items()
        ]
        missing += [name for name in split.gallery if name not in split.images]
    return PhotoList(tuple(photos), tuple(missing), home / FOLDER)


def _evaluation_names(home: Path) -> set[str]:
    """Return the names of all val and test galleries."""
    paths = [
        home / "image_splits" / f"split.{category}.{split}.json"
        for category in fashioniq.CATEGORIES
        for split in ("val", "test")
    ]
    return {name for path in paths if path.is_file() for name in read_json_list(path, str)}


def _fashiongen(root: Path, settings: PhotoSettings) -> PhotoList:
    split = fashiongen.read_fashiongen(root, settings.split)
    photos = []
    for pair in split.pairs:
        member = split_member(pair.image)
        photos.append(
            Photo(pair.image.stem if member is None else str(member[1]), pair.image, kind_of(pair.subcategory))
        )
    return PhotoList(tuple(photos), split.missing, fashiongen.find_root(root) / FOLDER)


def _vitonhd(root: Path, settings: PhotoSettings) -> PhotoList:
    """Caption the garments, not the persons."""
    if settings.split == "val":
        raise NoSplit("vitonhd has the splits train and test, not val")
    home = tryon.find_root(root)
    garments = find_images(home / settings.split / tryon.MAPS["garment"][0][0])
    photos = tuple(Photo(name, path, "garment") for name, path in sorted(garments.items()))
    return PhotoList(photos, (), home / FOLDER)


def _images(root: Path, settings: PhotoSettings) -> PhotoList:
    if not root.is_dir():
        raise UserError(f"--data-root {root}: no such folder; name a folder of photos")
    out = Path(settings.output_dir).absolute() if settings.output_dir else root
    names = [path.relative_to(root) for path in list_images(root)]
    if not names:
        raise UserError(f"--data-root {root} holds no photos ({', '.join(SUFFIXES)})")
    return PhotoList(tuple(Photo(path.as_posix(), root / path, "garment") for path in names), (), out)

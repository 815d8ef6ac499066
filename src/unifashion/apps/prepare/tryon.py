"""The maps that a download of VITON-HD or DressCode lacks, made from those it has, beside them.

    unifashion prepare tryon --source dataset/vitonhd dataset/dresscode [--sketch-model pidinet.pt --trust-sketch-model]

    VITON-HD     agnostic-mask, agnostic-v3.2    from image-parse-v3 and openpose_json (BODY-25)
                 im_sketch                       of the worn garment, from the photo and image-parse-v3
                 im_sketch_unpaired              of the other garment of an unpaired pair, stretched to where the worn one is
                 cloth_sketch                    of the garment's own photo, from cloth and, where it is there, cloth-mask
                 gt_cloth_warped_mask            where the worn garment is, from image-parse-v3
    DressCode    agnostic-mask, agnostic         from label_maps (ATR) and keypoints (18 points)
                 im_sketch, im_sketch_unpaired   from the photo and label_maps
                 cloth_sketch                    from the garment's photo
                 gt_cloth_warped_mask            from label_maps
                 image-densepose                 the colours of the body's parts, from dense (their ids)

Files of the download are never touched. A file that was made here records inside what made it, and is made again when its
sources or the sketch model change. ``prepared.json`` (sizes and hashes) is written last, with ``contact_sheets/`` to look at.
DensePose itself needs a separate network: it is not made. So would a garment that follows the body of who does not wear it.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from unifashion.apps.prepare.job_runner import (
    Done,
    Job,
    JobError,
    describe_source,
    faults,
    preparing,
    read_manifest,
    run_jobs,
    write_manifest,
)
from unifashion.apps.prepare.plan import QUALITY
from unifashion.data import dresscode, tryon
from unifashion.data.annotations import NoSplit
from unifashion.data.contact_sheet import contact_sheet
from unifashion.data.image_files import find_images
from unifashion.data.images import ImageError, load_image, read_info
from unifashion.data.tryon import MapTable
from unifashion.errors import UserError
from unifashion.io import replacing
from unifashion.tryon.agnostic import Mask, agnostic_mask, agnostic_picture
from unifashion.tryon.body import Body
from unifashion.tryon.densepose import colour_parts
from unifashion.tryon.human_parsing import ATR, read_labels
from unifashion.tryon.masks import read_mask
from unifashion.tryon.sketch import Sketcher, place, product_region

PREPARED = "prepared.json"
SHEETS = "contact_sheets"
UNPAIRED_SKETCHES = "im_sketch_unpaired"
MARK = "unifashion"  # in files made here: the name of a PNG text chunk, or the beginning of a JPEG comment
VERSION = 1
ON_SHEET = 24


def prepare_tryon(
    source: Path,
    sketch_model: Path | None = None,
    num_threads: int = 8,
    progress: bool = True,
    trust_sketch_model: bool = False,
) -> tuple[Path, Done]:
    """Make what one set lacks; returns its folder and the outcome.

    Raises:
        UserError: neither set exists, a sketch model that cannot be used, a full disk.
    """
    root, homes, table = _find(source)
    sketcher = Sketcher(sketch_model, trust_sketch_model)
    marks = {name: f"agnostic {VERSION}" for name in ("agnostic", "agnostic_mask", "densepose", "warped_mask")}
    marks["sketch"] = marks["garment-sketch"] = f"sketch {VERSION} {sketcher.name}"
    jobs: list[Job] = []
    for home in homes:
        for jobs_of in (_jobs, _garment_jobs, _pair_jobs):
            jobs += jobs_of(root, home, table, sketcher, marks)
    with preparing(root):
        done = run_jobs(root, jobs, len(jobs), "preparing try-on", num_threads, progress)
        lost = {name for name, _ in done.failed}
        made = [job.name for job in jobs if job.name not in lost]
        for home in homes:
            made += _write_sheet(root, home, table)
        settings = {"sketch": sketcher.name, "version": VERSION}
        sources = [describe_source(home / _folder_of_labels(home)) for home in homes if _folder_of_labels(home)]
        write_manifest(root, "tryon", sources, settings, done, made, PREPARED)
    return root, done


def check_tryon(source: Path) -> list[str]:
    """Return how the prepared maps differ from ``prepared.json``.

    Raises:
        UserError: nothing was prepared there.
    """
    root, _, _ = _find(source)
    manifest = read_manifest(root, PREPARED)
    if manifest is None:
        raise UserError(f"{root} has no finished {PREPARED}; run unifashion prepare tryon --source {root} first")
    return faults(root, manifest)


def _find(source: Path) -> tuple[Path, list[Path], MapTable]:
    """Return the set's folder, the folders in it that hold persons, and where their maps are."""
    try:
        root = tryon.find_root(source)
        return root, [root / split for split in tryon.SPLITS if (root / split / "image").is_dir()], tryon.MAPS
    except NoSplit:
        pass
    try:
        root = dresscode.find_root(source)
    except NoSplit:
        raise UserError(
            f"--source {source}: neither VITON-HD (train/ or test/) nor DressCode (dresses/images/) is there"
        ) from None
    return root, [root / name for name in dresscode.CATEGORIES if (root / name / "images").is_dir()], dresscode.MAPS


def _folder_of_labels(home: Path) -> str:
    return next((name for name in ("image-parse-v3", "label_maps") if (home / name).is_dir()), "")


def _jobs(root: Path, home: Path, table: MapTable, sketcher: Sketcher, marks: dict[str, str]) -> list[Job]:
    """Return a job for every map that the download lacks, and for those that an earlier call made."""
    map_files = tryon.find_maps(home, table)
    jobs = []
    for name, photo in map_files["image"].items():
        body = Body.of(name, photo)
        given = {key: files[name] for key, files in map_files.items() if name in files}
        own = {key for key, path in given.items() if key in marks and _mark_of(path)}
        makers = {
            "agnostic_mask": partial(_make_mask, body),
            "agnostic": partial(
                _make_agnostic, body, given.get("agnostic_mask") if "agnostic_mask" not in own else None
            ),
            "sketch": partial(_make_sketch, body, sketcher),
            "warped_mask": partial(_make_worn_mask, body),
        }
        if body.surface is not None:
            makers["densepose"] = partial(_make_surface, body.surface)
        for key, make in makers.items():
            if key in given and key not in own:
                continue
            path = _path_of(home, table, key, name)
            jobs.append(_job(root, path, make, marks[key], _changed(body.photo, body.labels, body.pose)))
    return jobs


def _garment_jobs(root: Path, home: Path, table: MapTable, sketcher: Sketcher, marks: dict[str, str]) -> list[Job]:
    """Return a job for the sketch of every garment's photo, likewise."""
    map_files, key = tryon.find_maps(home, table), "garment-sketch"
    jobs = []
    for name, photo in map_files["garment"].items():
        if name in map_files[key] and not _mark_of(map_files[key][name]):
            continue
        mask = map_files["garment_mask"].get(name)
        make = partial(_make_garment_sketch, photo, mask, sketcher)
        jobs.append(_job(root, _path_of(home, table, key, name), make, marks[key], _changed(photo, mask)))
    return jobs


def _pair_jobs(root: Path, home: Path, table: MapTable, sketcher: Sketcher, marks: dict[str, str]) -> list[Job]:
    """Return a job for every unpaired pair whose photos are here: the garment's sketch on the person."""
    map_files, given = tryon.find_maps(home, table), find_images(home / UNPAIRED_SKETCHES)
    jobs = []
    for person, garment in _unpaired(root, home, table):
        name = f"{person}{table['image'][2][0]}_{garment}{table['garment'][2][0]}"
        if person not in map_files["image"] or garment not in map_files["garment"]:
            continue
        if name in given and not _mark_of(given[name]):
            continue
        body = Body.of(person, map_files["image"][person])
        sources = map_files["garment"][garment], map_files["garment_mask"].get(garment)
        make = partial(_make_unpaired_sketch, body, *sources, sketcher)
        changed = _changed(body.photo, body.labels, body.pose, *sources)
        jobs.append(_job(root, home / UNPAIRED_SKETCHES / f"{name}.png", make, marks["sketch"], changed))
    return jobs


def _unpaired(root: Path, home: Path, table: MapTable) -> list[tuple[str, str]]:
    """Return persons and the other garments that the set's own list gives them; none where there is no list."""
    is_vitonhd = table is tryon.MAPS
    path = root / f"{home.name}_pairs.txt" if is_vitonhd else home / "test_pairs_unpaired.txt"
    if not path.is_file():
        return []
    lines = tryon.read_pairs(path, *(("", "") if is_vitonhd else dresscode.ENDINGS))
    return [(person, garment) for _, person, garment in lines if person != garment]


def _job(root: Path, path: Path, make: "partial[Image.Image]", mark: str, changed: float) -> Job:
    stale = path.is_file() and _mark_of(path) != mark
    write = partial(_write, make, mark, path.suffix == ".jpg")
    return Job(path.relative_to(root).as_posix(), write, float("inf") if stale else changed)


def _path_of(home: Path, table: MapTable, key: str, name: str) -> Path:
    """Return where a map goes: into the folder that has some already, whatever its spelling; readers take only one of them."""
    names, _, endings = table[key]
    folders = [tryon.map_folder(home, name) for name in names]
    folder = next((folder for folder in folders if folder.is_dir() and any(folder.iterdir())), folders[0])
    return folder / f"{name}{endings[0]}{'.jpg' if key == 'agnostic' else '.png'}"


def _changed(*sources: Path | None) -> float:
    """Return when the newest of the sources was changed."""
    return max((path.stat().st_mtime for path in sources if path is not None and path.is_file()), default=0.0)


# Files --------------------------------------------------------------------------------------------------------------------


def _write(make: "partial[Image.Image]", mark: str, as_jpeg: bool, path: Path) -> None:
    try:
        picture = make()
    except ImageError as error:
        raise JobError(f"{error.path.parent.name}/{error.path.name}: {error.reason}") from None
    except UserError as error:
        raise JobError(str(error)) from None
    if as_jpeg:
        picture.save(path, "JPEG", quality=QUALITY, comment=f"{MARK}: {mark}".encode())
    else:
        info = PngImagePlugin.PngInfo()
        info.add_text(MARK, mark)
        picture.save(path, "PNG", pnginfo=info)


def _mark_of(path: Path) -> str:
    """Return what a file was made by; empty for one of the download."""
    try:
        info = read_info(path)
    except ImageError:  # a damaged file of the download: whoever reads it reports it
        return ""
    text, comment = info.get(MARK), info.get("comment", b"")
    if isinstance(text, str):
        return text
    head = f"{MARK}: ".encode()
    return (
        comment[len(head) :].decode("ascii", "replace")
        if isinstance(comment, bytes) and comment.startswith(head)
        else ""
    )


def _make_mask(body: Body) -> Image.Image:
    photo = load_image(body.photo)
    labels = read_labels(body.labels, body.scheme, photo.size)
    return agnostic_mask(labels, body.read_pose(labels), body.scheme, body.half)


def _make_agnostic(body: Body, mask: Path | None) -> Image.Image:
    return agnostic_picture(load_image(body.photo), read_mask(mask) if mask else _make_mask(body))


def _make_sketch(body: Body, sketcher: Sketcher) -> Image.Image:
    return sketcher(*_photo_and_garment(body))


def _make_garment_sketch(photo: Path, mask: Path | None, sketcher: Sketcher) -> Image.Image:
    return sketcher(*_product(photo, mask))


def _make_unpaired_sketch(body: Body, photo: Path, mask: Path | None, sketcher: Sketcher) -> Image.Image:
    _, worn = _photo_and_garment(body)
    return sketcher(*place(*_product(photo, mask), worn))


def _product(photo: Path, mask: Path | None) -> tuple[Image.Image, Mask]:
    """Return a garment's photo, and where the garment is in it."""
    picture = load_image(photo)
    if mask is None:
        return picture, product_region(picture)
    return picture, np.asarray(read_mask(mask).resize(picture.size)) >= 128


def _make_worn_mask(body: Body) -> Image.Image:
    return Image.fromarray(_photo_and_garment(body)[1].astype(np.uint8) * 255)


def _photo_and_garment(body: Body) -> tuple[Image.Image, Mask]:
    photo = load_image(body.photo)
    labels = body.read_labels(photo.size)
    worn = {
        "upper": body.scheme.upper if body.scheme is ATR else body.scheme.upper + body.scheme.dress,
        "lower": body.scheme.lower,
        "dress": body.scheme.dress,
    }
    garment = np.isin(labels, worn[body.half])
    if not garment.any():
        raise JobError(f"{body.labels.name}: shows no garment of this kind")
    return photo, garment


def _make_surface(path: Path) -> Image.Image:
    return colour_parts(path)


def _write_sheet(root: Path, home: Path, table: MapTable) -> list[str]:
    """Write photo, painted region, agnostic picture and sketches of the first persons that have them; returns the file's name."""
    map_files = tryon.find_maps(home, table)
    names = [
        name for name in map_files["image"] if name in map_files["agnostic_mask"] and name in map_files["agnostic"]
    ]
    if not names:
        return []
    rows = [_row(name, map_files) for name in names[:ON_SHEET]]
    path = root / SHEETS / f"{home.name}.jpg"
    captions = [text for name in names[:ON_SHEET] for text in (name, "painted", "agnostic", "worn", "garment")]
    sheet = contact_sheet(list(chain.from_iterable(rows)), 10, 220, captions, caption_lines=1)
    with replacing(path) as unfinished:
        sheet.save(unfinished, "JPEG", quality=QUALITY)
    return [path.relative_to(root).as_posix()]


def _row(name: str, map_files: tryon.MapFiles) -> Sequence[Image.Image]:
    photo = load_image(map_files["image"][name])
    mask = read_mask(map_files["agnostic_mask"][name]).resize(photo.size)
    red = Image.blend(photo, Image.new("RGB", photo.size, (230, 40, 40)), 0.5)
    sketches = (
        load_image(map_files[key][name]) if name in map_files[key] else Image.new("RGB", photo.size, "white")
        for key in ("sketch", "garment-sketch")
    )
    return photo, Image.composite(red, photo, mask), load_image(map_files["agnostic"][name]), *sketches

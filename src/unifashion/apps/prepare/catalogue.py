"""A table of products with paths or URLs of photos, or a folder of photos -> a catalogue of your own that training reads.

    products.csv                     image,text,price
                                     shop/0001.png,"A red dress.",49.90
                                     https://shop.example/2.jpg,"A blue shirt.",19.90
    my_catalogue/catalogue.csv       the same rows and columns, image = photos/...
    my_catalogue/photos/*.jpg        upright RGB JPEGs

An image cell may hold several views with ``;`` between them. A folder may hold a catalogue.csv, or a text file beside each photo;
what is neither is counted and named. A photo's name holds the row, the old name and a hash of its source
and its largest size, so that a changed table or size never mixes with the photos of an earlier call.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from unifashion.apps.prepare.downloads import fetch, is_address
from unifashion.apps.prepare.job_runner import Done, Job, JobError, changed_at
from unifashion.apps.prepare.plan import QUALITY, Options, Plan
from unifashion.data import own_catalogue
from unifashion.data.datasets import DatasetSpec
from unifashion.data.image_files import find_file
from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError
from unifashion.io import write_csv

PHOTOS = "photos"


def plan_catalogue(spec: DatasetSpec, sources: Sequence[Path], options: Options) -> Plan:
    """Plan one table or folder.

    Raises:
        UserError: neither a table nor a folder, or more than one; a table that is malformed, a photo without a text.
    """
    if len(sources) != 1 or not (sources[0].is_dir() or sources[0].suffix.lower() in (".csv", ".tsv")):
        raise UserError(
            "--source: name one table (.csv or .tsv) with the columns image (a path or a URL) and text, or a folder of photos"
        )
    source = sources[0]
    home = source if source.is_dir() else source.parent
    if source.is_dir() and not own_catalogue.has_table(source):
        photos = own_catalogue.read_photos(source)
        rows = [{"image": f"{row.image.relative_to(home)}", "text": row.text, "id": row.product} for row in photos]
    else:
        table = source / own_catalogue.TABLE if source.is_dir() else source
        rows = [values for _, values in own_catalogue.read_table(table)]
    views = [_views(row["image"], home) for row in rows]
    names = [[_photo_name(row, view, options.max_side) for view in cell] for row, cell in enumerate(views)]
    jobs = [
        Job(name, partial(_take_photo, view, home, options.max_side), _changed(view, home))
        for cell, of_row in zip(views, names, strict=True)
        for view, name in zip(cell, of_row, strict=True)
    ]
    return Plan(jobs, len(jobs), partial(_finish, source, rows, names))


def _finish(source: Path, rows: list[dict[str, str]], names: list[list[str]], home: Path, done: Done) -> None:
    """Write the rows that have a photo, and remove the photos of rows that the table no longer has."""
    lost = dict(done.failed)
    kept = []
    for row, of_row in zip(rows, names, strict=True):
        views = [name for name in of_row if name not in lost]
        if views:
            kept.append({**row, "image": ";".join(views)})
    if not kept:
        raise UserError(f"{source}: none of its {len(rows)} photos could be read, the first: {done.failed[0][1]}")
    write_csv(home / own_catalogue.TABLE, list(rows[0]), kept)
    wanted = {name for of_row in names for name in of_row}
    for path in (home / PHOTOS).iterdir():
        if f"{PHOTOS}/{path.name}" not in wanted:
            path.unlink()


def _views(cell: str, home: Path) -> list[str]:
    """Return the photos of a row; a URL may itself hold a ``;``."""
    views = own_catalogue.views_of(home, cell)
    return views if all(map(is_address, views)) or not is_address(cell) else [cell]


def _photo_name(row: int, source: str, max_side: int) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source.split("?")[0]).stem)[:60] or "photo"
    digest = hashlib.blake2b(f"{source}\n{max_side}".encode(), digest_size=4).hexdigest()
    return f"{PHOTOS}/{row:06d}_{stem}_{digest}.jpg"


def _changed(source: str, home: Path) -> float:
    """Return when a local photo was last changed, seconds; 0 for one on the web or a missing one."""
    return 0.0 if is_address(source) else changed_at(find_file(home, source))


def _take_photo(source: str, home: Path, max_side: int, target: Path) -> None:
    """Copy or download one photo as an upright RGB JPEG, not longer than asked."""
    if is_address(source):
        fetch(source, target)
        path = target
    else:
        path = find_file(home, source)
    try:
        image = load_image(path)
    except ImageError as error:
        raise JobError(error.reason) from None
    if max_side and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(target, "JPEG", quality=QUALITY)

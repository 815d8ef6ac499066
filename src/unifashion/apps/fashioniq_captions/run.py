"""Caption the photos of a data set: what ``inference.py`` and ``cot.py`` call.

    OUT/next_llava.val.dress.caption.json     fashioniq: [{"image": "B008BHCT58", "caption": "...", "text_guidance": ""}, ...]
    OUT/captions.val.jsonl                    other sets: {"id": "10000", "image": "image_val/10000.jpg", "caption": "..."}
    OUT/captioning.val.json                   what wrote them, how many, and which marks a score with them must carry ("leaky")
    OUT/left_out.val.csv                      photos without a caption, and why
    OUT/.journal/                             the model's own words, without thoughts and wrappers (llm/answers.py), from which
                                              the files above are made; resumes the run

The files are written when all photos are done, whole or not at all. Another call edits and writes them again without asking the
model; a photo without a caption is tried again.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unifashion.apps.fashioniq_captions.backend import Backend
from unifashion.apps.fashioniq_captions.journal import Entry, Journal, opened
from unifashion.apps.fashioniq_captions.photos import Photo, PhotoList, read_photos
from unifashion.apps.fashioniq_captions.pipeline import Problem, caption_photos
from unifashion.apps.fashioniq_captions.processes import caption_in_processes, num_copies
from unifashion.apps.fashioniq_captions.prompts import fingerprint
from unifashion.apps.fashioniq_captions.results import output_paths, write_results
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings, PhotoSettings
from unifashion.data.skipped import SkippedImages, check_missing
from unifashion.errors import UserError
from unifashion.io import check_output
from unifashion.llm.answers import NoCaption, caption_of

log = logging.getLogger(__name__)


def run_captioning(photos: PhotoSettings, captioner: CaptionerSettings, backend: Backend | None = None) -> list[Path]:
    """Caption, and return the paths of the caption files.

    Args:
        photos: what is captioned and where the captions go.
        captioner: the model.
        backend: use this instead of what ``captioner`` names.

    Raises:
        UserError: data, model, server or folder that cannot be used; guidance that would leak; more photos without a
            caption than ``max_missing``.
    """
    listed = read_photos(photos)
    chosen = listed.photos[: photos.limit] if photos.limit else listed.photos
    out = Path(photos.output_dir).absolute() if photos.output_dir else listed.folder
    check_output(out, "--output-dir")
    captioner = _with_full_path(captioner)
    settings = _settings_of(photos, captioner)
    outputs = output_paths(photos, out, listed.photos)
    folder = out / ".journal" / f"{photos.dataset}.{photos.split}"
    skipped = SkippedImages()
    with opened(folder, settings, outputs, photos.overwrite) as answers:
        done = _captions(answers)
        todo = [photo for photo in chosen if photo.key not in done]
        if done:
            log.info("%d of %d photos already have a caption", len(chosen) - len(todo), len(chosen))
        results = _caption(todo, captioner, folder, backend) if todo else ()
        with tqdm(results, total=len(chosen), initial=len(chosen) - len(todo), unit="photo", desc="captions") as bar:
            for result in bar:
                if isinstance(result, Problem):
                    skipped.add(result.photo.image, result.reason)
                else:
                    done[result.key] = result
        captioned = _check(photos, listed, chosen, done, skipped, out)
        counts = {"captions": len(captioned), "photos": len(listed.photos) + len(listed.missing)}
        return write_results(photos, out, captioned, done, {**settings, "edit": captioner.edit, **counts})


def _captions(answers: dict[str, Entry]) -> dict[str, Entry]:
    """Return the answers that hold captions: a journal may be of a version that kept thoughts and refusals."""
    done = {}
    for key, entry in answers.items():
        with suppress(NoCaption):
            done[key] = replace(entry, text=caption_of(entry.text))
    if len(done) < len(answers):
        log.warning(
            "%d answers of the journal are no captions; their photos are asked for again", len(answers) - len(done)
        )
    return done


def _caption(
    todo: Sequence[Photo], captioner: CaptionerSettings, folder: Path, backend: Backend | None
) -> Iterable[Entry | Problem]:
    """Yield the results for ``todo``, from this process or from one for every model copy."""
    copies = 1 if backend is not None or captioner.endpoint else num_copies(captioner, len(todo))
    if copies > 1:
        yield from caption_in_processes(todo, captioner, folder, copies)
        return
    backend = backend or _open_backend(captioner)
    with Journal(folder) as journal:
        yield from caption_photos(backend, todo, journal, chain=captioner.chain, prompt=captioner.prompt)


def _open_backend(captioner: CaptionerSettings) -> Backend:
    if captioner.endpoint:
        from unifashion.apps.fashioniq_captions.endpoint import EndpointBackend

        return EndpointBackend(captioner)
    import torch

    from unifashion.apps.fashioniq_captions.llava import LlavaBackend

    return LlavaBackend(captioner, "cuda:0" if torch.cuda.is_available() else "cpu")


def _with_full_path(captioner: CaptionerSettings) -> CaptionerSettings:
    """Return the settings with a local model's absolute path: processes may start in another folder."""
    local = not captioner.endpoint and Path(captioner.model).is_dir()
    return replace(captioner, model=str(Path(captioner.model).resolve())) if local else captioner


def _settings_of(photos: PhotoSettings, captioner: CaptionerSettings) -> dict[str, Any]:
    """Return all that the model's words depend on: a run with the same may continue this one. Editing happens later."""
    return {
        "dataset": photos.dataset,
        "split": photos.split,
        "guidance": photos.guidance,
        "leaky": photos.guidance and photos.allow_leaky_captions,
        "model": captioner.model,
        "chain": captioner.chain,
        "max_new_tokens": captioner.max_new_tokens,
        "prompt": captioner.prompt,
        "prompts": fingerprint(captioner.chain, captioner.prompt),
        **({} if captioner.temperature is None else {"temperature": captioner.temperature}),
    }


def _check(
    photos: PhotoSettings,
    listed: PhotoList,
    chosen: Sequence[Photo],
    done: dict[str, Entry],
    skipped: SkippedImages,
    out: Path,
) -> list[Photo]:
    """Return the photos that have a caption, report those that have none, and raise if these are too many."""
    captioned = [photo for photo in chosen if photo.key in done]
    left_out = out / f"left_out.{photos.split}.csv"
    left_out.unlink(missing_ok=True)
    if skipped.reasons:
        skipped.write(left_out)
        log.warning("%s; all are in %s", skipped.summary(), left_out)
    if not captioned:
        raise UserError(f"no photo got a caption: {skipped.summary()}")
    num_listed = len(chosen) + (0 if photos.limit else len(listed.missing))
    log.info("%s", check_missing(len(captioned), num_listed, photos.max_missing, "photos"))
    return captioned

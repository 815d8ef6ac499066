"""From photos to journal entries: load, ask (once, or twice for a chain of thought), keep the answer; a few batches at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from unifashion.apps.fashioniq_captions.backend import Backend, Dialogue, Refusal, Reply
from unifashion.apps.fashioniq_captions.journal import Entry, Journal
from unifashion.apps.fashioniq_captions.photos import Photo
from unifashion.apps.fashioniq_captions.prompts import describe, list_attributes, write_caption
from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError
from unifashion.llm.answers import NoCaption, caption_of

MAX_REFUSED = 10  # photos refused in a row after which the run stops: then the photos are not the reason


@dataclass(frozen=True, slots=True)
class Problem:
    """A photo without a caption, and why."""

    photo: Photo
    reason: str
    refused: bool  # by the model, rather than unreadable


def ask(backend: Backend, photos: Sequence[Photo], chain: bool, prompt: str | None = None) -> list[Entry | Problem]:
    """Return the model's answer for each photo, or what is wrong with it.

    Args:
        backend: the model.
        photos: at most its batch size.
        chain: ask for the attributes first, then for a caption made of them.
        prompt: ask this instead of the prompt for the photo's kind (no chain).
    """
    results: dict[str, Entry | Problem] = {}
    images: dict[str, Image.Image] = {}
    for photo in photos:
        try:
            images[photo.key] = load_image(photo.image)
        except ImageError as error:
            results[photo.key] = Problem(photo, error.reason, refused=False)

    def ask_all(question: Callable[[Photo], Dialogue]) -> dict[str, Reply]:
        """Ask about every photo that has no problem so far."""
        todo = [photo for photo in photos if photo.key not in results]
        replies = (
            backend.answer([images[photo.key] for photo in todo], [question(photo) for photo in todo]) if todo else []
        )
        answered = {}
        for photo, reply in zip(todo, replies, strict=True):
            try:
                if isinstance(reply, Refusal):
                    raise NoCaption(reply.reason)
                answered[photo.key] = Reply(caption_of(reply.text), reply.finished)
            except NoCaption as error:
                results[photo.key] = Problem(photo, str(error), refused=True)
        return answered

    def first_question(photo: Photo) -> str:
        return list_attributes(photo.kind, photo.guidance) if chain else prompt or describe(photo.kind, photo.guidance)

    replies = ask_all(lambda photo: (first_question(photo),))
    listed = {key: reply.text for key, reply in replies.items()} if chain else {}
    if chain:
        replies = ask_all(lambda photo: (first_question(photo), listed[photo.key], write_caption(photo.kind)))
    for key, reply in replies.items():
        results[key] = Entry(key, reply.text, reply.finished, listed.get(key, ""))
    return [results[photo.key] for photo in photos]


def caption_photos(
    backend: Backend, photos: Sequence[Photo], journal: Journal, *, chain: bool, prompt: str | None = None
) -> Iterator[Entry | Problem]:
    """Ask about all photos and write the answers into the journal; yields each result as it arrives, in any order.

    Raises:
        UserError: the model cannot be used, or refused many photos in a row.
    """
    rest = iter(photos)
    running: set[Future[list[Entry | Problem]]] = set()
    refused = 0
    # A backend takes several calls at a time: a server answers many requests, and a model on this machine generates one batch
    # while the next one is decoded and resized.
    with ThreadPoolExecutor(backend.concurrency) as pool:
        try:
            while True:  # the batch size is read again for each batch: a backend halves it when its memory runs out
                while len(running) < backend.concurrency and (batch := list(islice(rest, backend.batch_size))):
                    running.add(pool.submit(ask, backend, batch, chain, prompt))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for result in (result for future in done for result in future.result()):
                    if isinstance(result, Entry):
                        journal.add(result)
                    elif result.refused and refused + 1 >= MAX_REFUSED:
                        raise UserError(
                            f"{MAX_REFUSED} photos in a row got no caption, the last because {result.reason}"
                        )
                    refused = refused + 1 if isinstance(result, Problem) and result.refused else 0
                    yield result
        finally:
            backend.close()
            pool.shutdown(cancel_futures=True)

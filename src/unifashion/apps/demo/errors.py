"""Errors of a request: a sentence for people, an HTTP status for programs."""

import logging

from unifashion.data.images import ImageError
from unifashion.errors import UserError, sentence

log = logging.getLogger(__name__)


class RequestError(UserError):
    """A request that cannot be answered; ``status`` is its HTTP code."""

    status = 400


class NotFound(RequestError):
    """An item, address or model that does not exist."""

    status = 404


class TooLarge(RequestError):
    """A body, picture or text above its limit."""

    status = 413


class Busy(RequestError):
    """Too many requests are waiting, or something that the answer needs is unavailable for the moment."""

    status = 503


def explain(error: Exception, subject: str) -> tuple[int, str]:
    """Return status and sentence for the client; a bug goes to the log, where ``subject`` says what failed."""
    if isinstance(error, ImageError):
        return (
            400,
            f"A picture cannot be used: {error.reason}.",
        )  # without the path, which would show the server's folders
    if isinstance(error, RequestError):
        return error.status, sentence(error)
    if isinstance(error, UserError):
        return 400, sentence(error)
    log.error("%s failed", subject, exc_info=error)
    return 500, "Something went wrong on the server; see its log."

"""What the demo says no to: a sentence for people, a status code for programs."""

from unifashion.data.images import ImageError
from unifashion.errors import UserError, sentence


class Refusal(UserError):
    """A request that is not served; ``status`` is its HTTP code."""

    status = 400


class NotThere(Refusal):
    """An item or address that does not exist."""

    status = 404


class TooLarge(Refusal):
    """A body, picture or text above its limit."""

    status = 413


class Busy(Refusal):
    """Too many requests are waiting, or something that the answer needs is away for the moment."""

    status = 503


def explain(error: UserError) -> tuple[int, str]:
    """Return status and sentence for the outside; of a picture only the reason, because its path is nobody's business."""
    if isinstance(error, ImageError):
        return 400, f"A picture cannot be used: {error.reason}."
    return (error.status if isinstance(error, Refusal) else 400), sentence(error)

"""Trackers: where the metrics of a run go besides its folder, through accelerate."""

from accelerate.tracking import get_available_trackers

from unifashion.errors import UserError, missing


def to_track(name: str) -> str | None:
    """Return what ``Accelerator(log_with=...)`` takes for ``--tracker``.

    Raises:
        UserError: its package is not installed; accelerate would then silently log nothing.
    """
    if name == "none":
        return None
    if name not in [str(kind.value) for kind in get_available_trackers()]:
        raise UserError(missing(name, f"--tracker {name}"))
    return name

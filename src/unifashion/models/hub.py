"""Files of the Hugging Face hub, and one sentence for each thing that keeps them away."""

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from unifashion.errors import UserError, one_line

# They say which kind of model a repository holds.
KIND_FILES = ("config.json", "model_index.json", "adapter_config.json")
# How the hub's client, and diffusers and transformers, name a file that a repository does not have.
_NOT_FOUND = re.compile(r"/resolve/[^/\s]+/(\S+?)\.?(?:\s|$)")
_NO_FILE = re.compile(r"does not appear to have a file named (\S+?(?: or \S+?)?)\.?(?:\s|$)")
_LOGIN = "log in with 'hf auth login' (or set HF_TOKEN)"


def download(repo: str, patterns: Sequence[str]) -> Path:
    """Return a folder with those files of a repository that match ``patterns``.

    Raises:
        UserError: no such repository, or no way to it.
    """
    try:
        return Path(snapshot_download(repo, allow_patterns=list(patterns)))
    except (HFValidationError, OSError, ValueError, RuntimeError) as error:
        what = fault(error, repo) or f"its repository cannot be read ({one_line(error)}); run the same command again"
        raise UserError(f"no model at {repo!r}: {what}") from None


def check_reachable(repo: str) -> Path | None:
    """Ask the hub for a repository once, before a library that would try file after file for minutes; errors as ``download``.

    Returns:
        the folder of the local copy, with the configs that say what it is; None where they cannot be looked at.
    """
    try:
        return Path(snapshot_download(repo, allow_patterns=list(KIND_FILES)))
    except IncompleteSnapshotError:
        return None  # without a network; the library knows which of the files in the cache it needs
    except (HFValidationError, OSError) as error:
        what = fault(error, repo)
        if what:
            raise UserError(f"no model at {repo!r}: {what}") from None
        return None


def fault(error: BaseException, repo: str) -> str | None:
    """Return what is wrong and the way out, or None for an error that says nothing about the hub or the way to it."""
    chain = list(_causes(error))
    for kind, sentence in (
        (
            HFValidationError,
            "there is no such file or folder, and it is no name of a repository on the hub (owner/name)",
        ),
        (
            GatedRepoError,
            f"its repository is gated: accept the terms at {constants.ENDPOINT}/{repo}, then {_LOGIN}",
        ),
        (
            RepositoryNotFoundError,
            "there is no such file or folder, and the hub has no such repository, or a private one; check the spelling, "
            f"or {_LOGIN}",
        ),
    ):
        if any(isinstance(cause, kind) for cause in chain):
            return sentence
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in chain):
        return f"the disk is full; make room in {constants.HF_HUB_CACHE}, or name another place with HF_HOME"
    if any("Consistency check failed" in str(cause) for cause in chain):
        return "its download is damaged; run the same command again"
    answers = [cause for cause in chain if isinstance(cause, HfHubHTTPError)]
    if answers and isinstance(answers[0], RemoteEntryNotFoundError):
        missing = _NOT_FOUND.search(str(answers[0]))
        return lacks(repo, missing[1] if missing else "file that is needed")
    if answers:
        status = getattr(answers[0].response, "status_code", "no status")
        return f"the hub answered with status {status}; " + (_LOGIN if status in (401, 403) else "try again later")
    unreachable = (LocalEntryNotFoundError, IncompleteSnapshotError, ConnectionError, TimeoutError)
    if any(isinstance(cause, unreachable) or type(cause).__module__.startswith("httpx") for cause in chain):
        return _not_in_cache(repo)
    missing = _NO_FILE.search(str(error))
    if missing:
        return lacks(repo, missing[1])
    return None


def _not_in_cache(repo: str) -> str:
    hub = f"there is no such file or folder, the cache {constants.HF_HUB_CACHE} does not hold it, and the hub "
    if constants.HF_HUB_OFFLINE:
        return hub + f"is not asked while HF_HUB_OFFLINE is set; unset it, or run 'hf download {repo}' once"
    return hub + "cannot be reached; check the network (and HTTPS_PROXY), or copy the model here and name its folder"


def lacks(repo: str, file: str) -> str:
    """Return what to do about a repository that is there, without a file that is needed."""
    if constants.HF_HUB_OFFLINE:
        return _not_in_cache(repo)
    return f"its repository has no {file}; {constants.ENDPOINT}/{repo}/tree/main shows what it has, name another"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from: the libraries put the hub's own into errors of theirs."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__

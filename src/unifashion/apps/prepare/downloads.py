"""One file over HTTP: a few tries with growing pauses, a time limit, and no half file."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from unifashion.apps.prepare.job_runner import JobError

TRIES = 4
TIMEOUT = 20.0  # seconds without a byte
PAUSE = 1.0  # seconds before the second try; doubled after each
MAX_BYTES = 64 * 2**20
AGENT = "unifashion-prepare"


def is_address(source: str) -> bool:
    """Return whether a text is an address on the web."""
    return source.lower().startswith(("http://", "https://"))


def fetch(url: str, path: Path, tries: int = TRIES, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
    """Write what a web address holds to ``path``.

    Raises:
        JobError: not a web address, the server says that it does not exist (not tried again), or no try got a complete answer.
    """
    if not is_address(url):
        raise JobError(f"not a web address: {url[:80]}")
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _fetch_once(url, path, timeout)
            return
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code in (400, 401, 403, 404, 410):
                break
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, EOFError) as error:
            reason = f"no complete answer ({getattr(error, 'reason', None) or error or type(error).__name__})"
        except ValueError as error:
            raise JobError(f"not a web address: {url[:80]} ({error})") from None
    raise JobError(reason)


def _fetch_once(url: str, path: Path, timeout: float) -> None:
    address = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # letters beyond ASCII and spaces
    request = urllib.request.Request(address, headers={"User-Agent": AGENT})
    with urllib.request.urlopen(request, timeout=timeout) as answer, path.open("wb") as file:
        length = answer.headers.get("Content-Length", "")
        expected = int(length) if length.isdecimal() else -1  # a server need not say
        size = 0
        while chunk := answer.read(1 << 16):
            size += len(chunk)
            if size > MAX_BYTES:
                raise JobError(f"larger than {MAX_BYTES >> 20} MiB")
            file.write(chunk)
    if expected >= 0 and size != expected:
        raise EOFError(f"{size} of {expected} bytes")

"""A server with OpenAI's chat API (vLLM, SGLang, llama.cpp, a cloud): one request per photo, several at a time.

A request that fails for the moment (429, 5xx, a dropped connection, no answer in time, an unusable answer) is repeated after
1, 2, 4 ... seconds, or after the time that the server asks for. A photo that the server rejects for good is left out; a server
that cannot be reached, or that rejects the key, stops the run. The key comes from $OPENAI_API_KEY; it is sent to that server
only (redirects are not followed) and is part of no message. A server that knows the token limit by its newer name, or
takes no temperature, is asked as it wants.
"""

import base64
import http.client
import io
import json
import logging
import os
import random
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from PIL import Image

from unifashion.apps.fashioniq_captions.backend import Dialogue, Refusal, Reply, messages
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings
from unifashion.errors import UserError, nearest

log = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
MAX_SIDE = 1344  # pixels; LLaVA-NeXT looks at 672
MAX_ANSWER = 16 << 20  # bytes
MAX_WAIT_S = 60.0
BUSY = (408, 409, 425, 429)
FATAL = {401: "rejects the key in $OPENAI_API_KEY", 403: "forbids this", 404: "does not know this path or model"}


class _Again(Exception):
    """Worth another try; ``wait`` is what the server asked for, seconds. ``reached``: whether there was a server at all."""

    def __init__(self, reason: str, wait: float = 0.0, reached: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.reached = wait, reached


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class EndpointBackend:
    """One server."""

    batch_size = 1

    def __init__(self, settings: CaptionerSettings) -> None:
        assert settings.endpoint is not None
        self.base, self.settings = _base_url(settings.endpoint), settings
        self.concurrency = settings.concurrency
        self._key = os.environ.get(KEY, "").strip()
        self._model, self._limit = settings.model, "max_tokens"
        self._temperature: float | None = settings.temperature or 0.0
        self._proxy = _proxy_note(self.base)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stop = threading.Event()
        if self._key and self.base.startswith("http://") and urllib.parse.urlsplit(self.base).hostname != "localhost":
            log.warning("%s is not encrypted: the key in $%s can be read in transit", self.base, KEY)
        self._check_model()

    def _check_model(self) -> None:
        """Ask once which models there are, so that a wrong name or a dead server shows before the first photo."""
        try:
            reply = self._retried("/models", None)
        except UserError as error:
            if "(404)" in str(error):  # not every server has this list
                return
            raise
        rows = reply.get("data") if isinstance(reply, dict) else None
        names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        known = [name for name in names if isinstance(name, str)]
        if known and self._model not in known:
            # Servers that were started with a folder or a file call the model by its path.
            same = [name for name in known if self._model in (PurePath(name).name, PurePath(name).stem)]
            if len(same) == 1:
                log.info("%s calls the model %s", self.base, same[0])
                self._model = same[0]
                return
            raise UserError(
                f"--endpoint {self.base} serves {', '.join(known[:5])}, not --model {self.settings.model}"
                f"{nearest(self.settings.model, known)}"
            )

    def answer(self, images: Sequence[Image.Image], dialogues: Sequence[Dialogue]) -> list[Reply | Refusal]:
        """Return the server's answers.

        Raises:
            UserError: the server cannot be reached, or refuses the key or the model.
        """
        return [self._ask(image, dialogue) for image, dialogue in zip(images, dialogues, strict=True)]

    def close(self) -> None:
        """End all waiting: no request is repeated any more."""
        self._stop.set()

    def _ask(self, image: Image.Image, dialogue: Dialogue) -> Reply | Refusal:
        picture = {"type": "image_url", "image_url": {"url": _data_url(image)}}
        body: dict[str, Any] = {"model": self._model, "messages": messages(dialogue, picture)}
        body[self._limit] = self.settings.max_new_tokens
        if self._temperature is not None:
            body["temperature"] = self._temperature
        reply = self._retried("/chat/completions", body)
        if isinstance(reply, Refusal):
            return self._ask(image, dialogue) if self._adapts(body, reply.reason) else reply
        return _read_reply(reply)

    def _adapts(self, body: dict[str, Any], reason: str) -> bool:
        """Return whether the server refuses a parameter of ``body`` that it need not get again."""
        if "max_tokens" in body and "max_completion_tokens" in reason:
            self._limit = "max_completion_tokens"
            return True
        if "temperature" not in body or "temperature" not in reason:
            return False
        if self.settings.temperature is not None:
            raise UserError(
                f"--temperature {self.settings.temperature:g}: {reason}; leave it out, or choose another one"
            )
        if self._temperature is not None:
            log.warning("%s takes no temperature of 0: its answers may differ from call to call", self.base)
        self._temperature = None
        return True

    def _retried(self, path: str, body: dict[str, Any] | None) -> Any:
        """Return the parsed answer, or a ``Refusal`` where the server refuses this request for good."""
        for attempt in range(self.settings.retries + 1):
            try:
                reply = self._once(path, body)
                if body is not None and not isinstance(reply, Refusal):
                    _read_reply(reply)
                return reply
            except _Again as error:
                last = error
                log.debug("%s: %s, attempt %d", self.base, error, attempt + 1)
            pause = min(max(last.wait, 2.0**attempt * random.uniform(0.5, 1.0)), MAX_WAIT_S)
            if attempt == self.settings.retries or self._stop.wait(pause):
                break
        if last.reached and body is not None:
            return Refusal(str(last))
        raise UserError(
            f"--endpoint {self.base}: {last}; {self._proxy or 'start the server'}, then run the same command again to continue"
        )

    def _once(self, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, headers=headers)
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as response:
                content = response.read(MAX_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except TimeoutError:
            raise _Again(f"no answer in {self.settings.timeout:g} seconds") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Again(f"no connection in {self.settings.timeout:g} seconds", reached=False) from None
            reached = isinstance(error.reason, ConnectionResetError | BrokenPipeError)
            raise _Again(f"cannot be reached ({error.reason})", reached=reached) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Again(f"the connection broke ({type(error).__name__})") from None
        try:
            reply = json.loads(content)
        except (ValueError, RecursionError):
            raise _Again("the answer is not JSON") from None
        if isinstance(reply, dict) and reply.get("error") and not reply.get("choices"):  # an error under the status 200
            said = reply["error"]
            code = said.get("code") if isinstance(said, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            return self._refuse(status, self._excerpt(json.dumps(said)), 0.0)
        return reply

    def _refused(self, error: urllib.error.HTTPError) -> Refusal:
        try:
            text = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        return self._refuse(error.code, self._excerpt(text), _seconds(error.headers.get("Retry-After")))

    def _refuse(self, code: int, text: str, wait: float) -> Refusal:
        reason = f"the server says {code} {text}"
        if code in BUSY or code >= 500:
            raise _Again(reason, wait)
        if code in FATAL or code < 400:
            what = FATAL.get(code, "redirects requests; name the final address")
            raise UserError(f"--endpoint {self.base} {what} ({code}){self._proxy and f'; {self._proxy}'}")
        return Refusal(reason)

    def _excerpt(self, text: str) -> str:
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:200]


def _read_reply(reply: Any) -> Reply | Refusal:
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text = _joined(message.get("content"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _Again(f"the answer has no text ({json.dumps(reply)[:100]})") from None
    if text is not None:
        return Reply(text.strip(), choice.get("finish_reason") != "length")
    if isinstance(message.get("refusal"), str):
        return Refusal(f"the model refused: {' '.join(message['refusal'].split())[:80]}")
    if message.get("reasoning_content") or message.get("reasoning"):
        return Refusal("the model returned thoughts alone; a higher --max-new-tokens leaves room for the caption")
    raise _Again(f"the answer has no text ({json.dumps(reply)[:100]})")


def _joined(content: Any) -> str | None:
    """Return the text of a message: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(text for text in texts if isinstance(text, str)) or None
    return content if isinstance(content, str) else None


def _proxy_note(url: str) -> str:
    """Return what to do about a proxy between us and the server; an empty string if there is none."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    names = [f"{parts.scheme}_proxy", f"{parts.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    if parts.scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(host):
        return ""
    variable = next((f"${name}" for name in names if os.environ.get(name)), "the system's settings")
    return f"the proxy of {variable} stands between: if {host} is to be reached directly, set NO_PROXY={host}"


def _base_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--endpoint {url}: not a URL; it looks like http://localhost:8000/v1")
    if parts.username or parts.password:
        raise UserError(f"--endpoint: put the key into the environment variable {KEY}, not into the URL")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _data_url(image: Image.Image) -> str:
    """Return the photo as a JPEG in a data URL, shrunk if a side is longer than ``MAX_SIDE``."""
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=95)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _seconds(header: str | None) -> float:
    try:
        return max(float(header or 0), 0.0)
    except ValueError:
        return 0.0

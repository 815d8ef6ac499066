"""The Java parts of captioning scores: PTB tokenizer, METEOR 1.5, SPICE. pycocoevalcap ships the programs.

They are called here rather than through pycocoevalcap's wrappers, which write into the package's folder, pass Java's messages on
to the terminal, leave METEOR running after an error and wait forever for one that died. The commands are the same, and so are
the numbers (a test compares them).
"""

import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tqdm import tqdm

from unifashion.errors import UserError, require

TIMEOUT_S = 300.0  # how long a Java program may be silent
MIN_SHOWN = 500  # items; below this, no progress bar is shown
# Otherwise Java uses the locale's encoding, which is ASCII in many containers, and accented letters become "?"; its decimal
# comma, with which METEOR cannot read its own numbers; and its lower case, where a Turkish I has no dot.
OPTIONS = (
    *("-Dfile.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8", "-Dstdout.encoding=UTF-8"),
    *("-Duser.language=en", "-Duser.country=US", "-Duser.language.format=en", "-Duser.country.format=US"),
)
# What Java says beside the reason for which it ended: the options it took, the calls, and that it ended.
_SAYS_NOTHING = re.compile(
    r"Picked up |at [\w.$/]+\(|\.\.\. \d+ more|\[?warning|\w+ .*VM warning: |"
    r"Error: (Could not create the Java Virtual Machine|A fatal exception has occurred|A JNI error has occurred)|"
    r"Error occurred during initialization of VM"
)
_NUMBERS = re.compile(rb"[-+\d.eE ]*\d[-+\d.eE ]*\s*")
_REMEDIES = (
    (r"UnsupportedClassVersionError", "this Java is too old: install a newer one, or set JAVA_HOME to it"),
    (r"OutOfMemoryError|insufficient memory|Could not (reserve|allocate|create)|maximum heap|memory allocation",
     "free some memory, or lift the limit that is set for this process (ulimit -v, a job's or container's memory)"),
    (r"corrupt jarfile|Unable to access jarfile|ClassNotFoundException|NoClassDefFoundError|ZipException",
     "a file of pycocoevalcap is damaged: pip install --force-reinstall pycocoevalcap"),
)  # fmt: skip


def jars() -> Path:
    """Return the folder of pycocoevalcap.

    Raises:
        UserError: it is not installed.
    """
    require("pycocoevalcap", "scoring captions")
    from pycocoevalcap.tokenizer import ptbtokenizer

    return Path(ptbtokenizer.__file__).parents[1]


def java() -> str:
    """Return the path of Java: that of $JAVA_HOME, else the first on the path.

    Raises:
        UserError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    program = program or shutil.which("java")
    if program is None:
        raise UserError(
            "captioning scores need Java (PTB tokenizer and METEOR are Java programs), and there is no 'java' on the path: "
            "install one, such as the package default-jre-headless, or set JAVA_HOME"
        )
    return program


def _environment() -> dict[str, str]:
    """Return the environment of a Java program: there, $_JAVA_OPTIONS has the last word, even over the command line."""
    theirs = os.environ.get("_JAVA_OPTIONS")
    return {**os.environ, **({} if theirs is None else {"_JAVA_OPTIONS": " ".join([theirs, *OPTIONS])})}


def tokenize(texts: Sequence[str]) -> list[str]:
    """Return every text as Penn Treebank tokens in lower case with spaces between them, without punctuation.

    Raises:
        UserError: no Java, or the tokenizer failed.
    """
    folder = jars()
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    jar = folder / "tokenizer" / STANFORD_CORENLP_3_4_1_JAR
    command = [
        java(),
        *OPTIONS,
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    lines = [" ".join(text.split()) for text in texts]  # a line break of any kind would shift all captions after it
    given = "".join(line + "\n" for line in lines).encode("utf-8", "replace")
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=TIMEOUT_S + len(lines) / 100, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise UserError("the PTB tokenizer does not answer; try again when the machine is less busy") from None
    tokens = done.stdout.decode("utf-8", "replace").split("\n")[: len(lines)]
    if done.returncode or len(tokens) != len(lines):
        raise UserError(f"the PTB tokenizer failed: {_reason(done.stderr, done.stdout if done.returncode else b'')}")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in tokens]


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return METEOR 1.5 (English, normalised) of the corpus and of every item, from 0 to 1, of tokenized captions.

    An empty caption scores 0. An empty reference counts only where an item has no other: METEOR takes the best one, and of
    several that score 0 the first, so that their order would change the length that the corpus adds up.

    Raises:
        UserError: no Java, or METEOR failed or stopped answering.
    """
    command = [java(), "-Xmx2G", *OPTIONS, "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    pairs = list(zip(candidates, references, strict=True))
    with _Dialogue.opened(command, jars() / "meteor") as dialogue:
        statistics = [
            dialogue.ask(" ||| ".join(["SCORE", *([ref for ref in map(_field, refs) if ref] or [""]), _field(text)]))
            for text, refs in tqdm(pairs, desc="METEOR", unit="caption", disable=len(pairs) < MIN_SHOWN)
        ]
        # METEOR of a corpus is not the mean of its items, it is computed from the sum of their statistics; so all go in one line.
        dialogue.send(" ||| ".join(["EVAL", *statistics]))
        scores = [float(dialogue.receive()) for _ in pairs]
        return float(dialogue.receive()), scores


def _field(text: str) -> str:
    """Return a text as a part of one of METEOR's lines; an empty one stays, between two separators."""
    return " ".join(text.replace("|||", " ").split())


class _Dialogue:
    """Lines to and from a running program; a watchdog kills a program that is silent for ``TIMEOUT_S``."""

    def __init__(self, process: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self.stderr = process, stderr
        self.stdin, self.stdout = process.stdin, process.stdout

    @classmethod
    @contextmanager
    def opened(cls, command: Sequence[str], folder: Path) -> Iterator["_Dialogue"]:
        """Start the program in ``folder``; it is killed when the block is left, for whatever reason."""
        with tempfile.TemporaryFile() as stderr:
            # stderr goes to a file, not to a pipe: a pipe that nobody reads is full after 64 KiB, and METEOR would wait forever.
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
            )
            try:
                yield cls(process, stderr)
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    try:
                        pipe and pipe.close()
                    except OSError:  # unwritten data for a program that has exited
                        pass

    def send(self, line: str) -> None:
        try:
            self.stdin.write(f"{line}\n".encode("utf-8", "replace"))
            self.stdin.flush()
        except OSError:
            raise self._failed(self._read(self.stdout.read)) from None

    def receive(self) -> str:
        """Return the next line, which holds numbers alone."""
        line = self._read(self.stdout.readline)
        if not _NUMBERS.fullmatch(line):
            raise self._failed(line + self._read(self.stdout.read))  # Java writes some of its last words there
        return line.decode().strip()

    def _read(self, read: Callable[[], bytes]) -> bytes:
        # A read has no timeout. Killing the program closes its output, which ends the read.
        watchdog = threading.Timer(TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            return read()
        finally:
            watchdog.cancel()

    def ask(self, line: str) -> str:
        self.send(line)
        return self.receive()

    def _failed(self, output: bytes) -> UserError:
        self.stderr.seek(0)
        return UserError(f"METEOR failed: {_reason(self.stderr.read(), output)}")


def spice_lacks() -> str:
    """Return why SPICE cannot be computed, or "" if it can: its CoreNLP models are not part of pycocoevalcap."""
    library = jars() / "spice" / "lib"
    wanted = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
    if all((library / name).is_file() for name in wanted):
        return ""
    return "no SPICE: its CoreNLP files are missing, python -m pycocoevalcap.spice.get_stanford_models fetches them"


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return SPICE of the corpus (the mean over items that have one) and of every item (nan where undefined), from 0 to 1.

    Raises:
        UserError: no Java, or SPICE failed.
    """
    rows = [
        {"image_id": row, "test": text, "refs": list(refs)}
        for row, (text, refs) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given, out, cache = folder / "in.json", folder / "out.json", folder / "cache"
        cache.mkdir()
        given.write_text(json.dumps(rows), encoding="utf-8")
        command = [java(), "-Xmx8G", *OPTIONS, "-jar", str(jars() / "spice" / "spice-1.0.jar"), str(given)]
        command += ["-cache", str(cache), "-out", str(out), "-subset", "-silent"]
        done = subprocess.run(command, capture_output=True, env=_environment())
        if done.returncode or not out.is_file():
            raise UserError(f"SPICE failed: {_reason(done.stderr, done.stdout)}")
        items: Sequence[Mapping[str, dict]] = json.loads(out.read_text(encoding="utf-8"))
    # By id, as SPICE is free to reorder its items; those without a score are left out of the mean.
    by_row = {int(str(item["image_id"])): item["scores"]["All"]["f"] for item in items}
    scores = [_number(by_row.get(row)) for row in range(len(rows))]
    defined = [score for score in scores if not math.isnan(score)]
    return (sum(defined) / len(defined) if defined else 0.0), scores


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _reason(*outputs: bytes) -> str:
    """Return in one line why a Java program ended, from what it wrote, and what to do."""
    lines = [line.strip(" #\t\r") for output in outputs for line in output.decode("utf-8", "replace").split("\n")]
    said = [line for line in dict.fromkeys(lines) if line and not _SAYS_NOTHING.match(line)]
    if not said:
        return "it ended without a message; is there enough memory?"
    text = "; ".join(said[:3])
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), "")
    return f"{text[:300]} ({remedy})" if remedy else text[:300]

"""The Java parts of captioning scores: PTB tokenizer, METEOR 1.5, SPICE. pycocoevalcap ships the programs.

They are called here rather than through pycocoevalcap's wrappers, which write into the package's folder, pass Java's messages on
to the terminal, leave METEOR running after an error and wait forever for one that died. The commands are the same, and so are
the numbers (a test compares them).
"""

import json
import math
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tqdm import tqdm

from unifashion.errors import UserError, require

TIMEOUT_S = 300.0  # how long a Java program may be silent
MIN_SHOWN = 500  # items; below this, no progress bar is shown
# Otherwise Java uses the locale's encoding, which is ASCII in many containers, and accented letters become "?".
UTF8 = ("-Dfile.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8", "-Dstdout.encoding=UTF-8")


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


def tokenize(texts: Sequence[str]) -> list[str]:
    """Return every text as Penn Treebank tokens in lower case with spaces between them, without punctuation.

    Raises:
        UserError: no Java, or the tokenizer failed.
    """
    folder = jars()
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    jar = folder / "tokenizer" / STANFORD_CORENLP_3_4_1_JAR
    command = [java(), *UTF8, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = [" ".join(text.split()) for text in texts]  # a line break of any kind would shift all captions after it
    given = "".join(line + "\n" for line in lines).encode("utf-8", "replace")
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_S + len(lines) / 100)
    except subprocess.TimeoutExpired:
        raise UserError("the PTB tokenizer does not answer; try again when the machine is less busy") from None
    tokens = done.stdout.decode("utf-8").split("\n")[: len(lines)]
    if done.returncode or len(tokens) != len(lines):
        raise UserError(f"the PTB tokenizer failed: {_last_line(done.stderr)}")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in tokens]


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return METEOR 1.5 (English, normalised) of the corpus and of every item, from 0 to 1, of tokenized captions.

    Raises:
        UserError: no Java, or METEOR failed or stopped answering.
    """
    command = [java(), "-Xmx2G", *UTF8, "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    pairs = list(zip(candidates, references, strict=True))
    with _Dialogue.opened(command, jars() / "meteor") as dialogue:
        statistics = [
            dialogue.ask(" ||| ".join(["SCORE", *(ref.replace("|||", " ") for ref in refs), text.replace("|||", " ")]))
            for text, refs in tqdm(pairs, desc="METEOR", unit="caption", disable=len(pairs) < MIN_SHOWN)
        ]
        # METEOR of a corpus is not the mean of its items, it is computed from the sum of their statistics; so all go in one line.
        dialogue.send(" ||| ".join(["EVAL", *statistics]))
        scores = [float(dialogue.receive()) for _ in pairs]
        return float(dialogue.receive()), scores


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
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
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
            self.stdin.write(f"{' '.join(line.split())}\n".encode("utf-8", "replace"))
            self.stdin.flush()
        except OSError:
            raise UserError(f"METEOR failed: {self._reason()}") from None

    def receive(self) -> str:
        # ``readline`` has no timeout. Killing the program closes its output, which ends the read.
        watchdog = threading.Timer(TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            line = self.stdout.readline().decode("utf-8").strip()
        finally:
            watchdog.cancel()
        if not line:
            raise UserError(f"METEOR failed: {self._reason()}")
        return line

    def ask(self, line: str) -> str:
        self.send(line)
        return self.receive()

    def _reason(self) -> str:
        self.stderr.seek(0)
        return _last_line(self.stderr.read())


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
        command = [java(), "-Xmx8G", *UTF8, "-jar", str(jars() / "spice" / "spice-1.0.jar"), str(given)]
        command += ["-cache", str(cache), "-out", str(out), "-subset", "-silent"]
        done = subprocess.run(command, capture_output=True)
        if done.returncode or not out.is_file():
            raise UserError(f"SPICE failed: {_last_line(done.stderr)}")
        items: Sequence[Mapping[str, dict]] = json.loads(out.read_text(encoding="utf-8"))
    # By id, as SPICE is free to reorder its items; those without a score are left out of the mean.
    by_row = {int(str(item["image_id"])): item["scores"]["All"]["f"] for item in items}
    scores = [_number(by_row.get(row)) for row in range(len(rows))]
    defined = [score for score in scores if not math.isnan(score)]
    return (sum(defined) / len(defined) if defined else 0.0), scores


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _last_line(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it ended without a message; is there enough memory?"

"""Settings of captioning: what ``inference.py`` and ``cot.py`` take as YAML keys and flags (see ``unifashion.flags``)."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from unifashion.data.settings import default_root
from unifashion.errors import UserError
from unifashion.flags import UNLIMITED, setting

FOR_SERVERS = ("temperature", "concurrency", "timeout", "retries")
FOR_MODELS_HERE = ("batch_size", "num_processes", "precision")
SetName = Literal["fashioniq", "fashiongen", "vitonhd", "images"]


@dataclass(frozen=True)
class PhotoSettings:
    """Photos: which ones get a caption, and where it goes."""

    dataset: SetName = setting("fashioniq", "data set to caption; images = any folder of photos (--data-root)")
    data_root: str | None = setting(
        None, "folder that holds the data sets, or the set's own folder; default: $UNIFASHION_DATA, else dataset/"
    )
    split: Literal["train", "val", "test"] = setting("train", "split to caption; images has no splits")
    output_dir: str | None = setting(
        None, "folder for the captions; default: captions_llava/ in the data set (images: the folder itself)"
    )
    limit: int = setting(0, "caption only the first N photos that are on disk, as a trial; 0 = all", most=UNLIMITED)
    max_missing: float = setting(
        1.0, "highest share of photos that may be missing, broken or refused, percent", most=100
    )
    overwrite: bool = setting(False, "replace captions of another run in output_dir")
    guidance: bool = setting(
        False, "hint at what to look for with the shoppers' sentences about the photo (fashioniq, train split)"
    )
    allow_leaky_captions: bool = setting(
        False,
        "allow --guidance in val and test too: the captions then contain the queries, and every score is marked leaky",
    )


@dataclass(frozen=True)
class CaptionerSettings:
    """Model: who writes, how much, and how fast."""

    model: str = setting(
        "llava-hf/llama3-llava-next-8b-hf",
        "LLaVA-NeXT or LLaVA 1.5 in Hugging Face form (folder or hub id), or what a server calls it",
    )
    endpoint: str | None = setting(
        None, "URL of a server with OpenAI's chat API (vLLM: http://HOST:8000/v1); key: $OPENAI_API_KEY"
    )
    chain: bool = setting(False, "chain of thought: first list the attributes, then write the caption from them")
    prompt: str | None = setting(None, "ask this instead of the prompt for the garment's category")
    max_new_tokens: int = setting(256, "longest answer, tokens; a sentence cut there is dropped", least=1, most=2**16)
    temperature: float | None = setting(
        None, "randomness of a server's answers; default: 0, or the server's own where it takes no 0", most=2
    )
    batch_size: int = setting(
        8, "photos per forward pass and model copy; halved when GPU memory runs out", least=1, most=4096
    )
    num_processes: int = setting(0, "model copies, each in a process with its own GPU; 0 = one for every GPU", most=256)
    precision: Literal["auto", "fp32", "bf16"] = setting("auto", "auto = bf16 on a GPU, fp32 elsewhere")
    concurrency: int = setting(16, "requests sent to a server at a time", least=1, most=1024)
    timeout: float = setting(120.0, "seconds that a server may take for one answer", above=0, most=86_400)
    retries: int = setting(5, "how often a request is repeated, after 1, 2, 4 ... seconds", most=16)
    edit: bool = setting(True, "remove people, poses and backdrops from the captions; false = keep the model's words")

    def __post_init__(self) -> None:
        if self.prompt is not None and self.chain:
            raise UserError("prompt: a chain of thought asks its own two questions; drop --prompt or add --no-chain")
        idle = FOR_MODELS_HERE if self.endpoint else FOR_SERVERS
        for item in fields(self):
            if item.name in idle and getattr(self, item.name) != item.default:
                side = "with" if self.endpoint else "without"
                raise UserError(f"--{item.name.replace('_', '-')} has no effect {side} --endpoint; leave it out")


def data_root(settings: PhotoSettings) -> Path:
    """Return the data root that the flag, the environment or the default names.

    Raises:
        UserError: ``images`` without a folder.
    """
    if settings.data_root is not None:
        return Path(settings.data_root)
    if settings.dataset == "images":
        raise UserError("--dataset images needs --data-root: the folder of photos")
    return default_root()

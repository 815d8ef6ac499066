"""Every score that one checkpoint and the data below one root allow: ``vail.sh --dataset all``.

    retrieval     every set that is there, of the kinds that the model is for (retrieval.py)
    captions      of the image-text sets, by the language model or else the Q-Former's own head (captions.py; needs Java)
    drawing       by the diffusion head: cycle consistency of what is drawn from another photo of the product and its words, and
                  from composed queries (cycle.py)
    try-on        by the try-on model that lies in the same folder, in CHECKPOINT/tryon: the first test pairs (tryon_results.py)

What could not be measured is said, with the reason.
"""

import shutil
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.annotations import NoSplit
from unifashion.data.datasets import retrieval_sets, tryon_sets
from unifashion.data.records import ImageText
from unifashion.data.settings import ALL
from unifashion.data.splits import find_tryon, is_composed, read_composed, read_pairs, read_tryon, root_marks
from unifashion.data.synthetic import is_synthetic
from unifashion.data.tryon import PERSON_MAPS
from unifashion.distributed import is_main_process, join_processes
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.evaluation import retrieval
from unifashion.evaluation.composed import query_text
from unifashion.evaluation.cycle import cycle_scores
from unifashion.evaluation.scores import MEAN, Measurement, Score, as_scores, scoring_into, write_scores
from unifashion.io import check_output, read_json, write_jsonl
from unifashion.llm.captioner import Captioner
from unifashion.llm.designer import Designer
from unifashion.llm.heads import find_heads, read_heads
from unifashion.models.presets import VARIANTS
from unifashion.tryon.loading import BESIDE, find_pipeline

Item = TypeVar("Item")
# The columns of the paper's ablation: what they are called, protocol and metric. FID needs Inception's weights, and the drawn
# garment's way back to its photo does not.
COLUMNS = (
    ("retrieval mean", "fashiongen/sub100", MEAN),
    ("composed mean", "fashioniq/original", MEAN),
    ("BLEU-4", "captions/standard", "BLEU-4"),
    ("drawing R@1", "cycle/design", "R@1"),
)


@dataclass
class Checkpoint:
    """A checkpoint, where its files go, what was measured, and what was not, with the reason."""

    path: str
    network: UniFashion
    folder: Path
    data: DataSettings
    evaluation: EvaluationSettings
    scores: list[Score]
    lacking: list[str]

    def add(self, dataset: str, split: str, measurements: Iterable[Measurement], marks: Sequence[str] = ()) -> None:
        """Add rows of one data set, with the marks of the checkpoint and of the data."""
        all_marks = (*self.network.config.marks, *root_marks(replace(self.data, dataset=dataset)), *marks)
        self.scores += as_scores(measurements, dataset=dataset, split=split, model=self.path, marks=all_marks)


def score_all(
    model_path: str, output_dir: str | None, data: DataSettings, evaluation: EvaluationSettings
) -> tuple[list[Score], list[str], Path]:
    """Measure what can be measured; returns the scores, a sentence for everything else, and the folder that holds them.

    Raises:
        UserError: no checkpoint there, nothing that can be measured, or as the single evaluations do.
    """
    home = Path(model_path) if Path(model_path).is_dir() else Path("runs")
    folder = Path(output_dir) if output_dir is not None else home / "validate" / ALL
    check_output(folder, "--output-dir")
    join_processes()
    network = UniFashion.from_pretrained(model_path).to(Accelerator().device)
    at = Checkpoint(model_path, network, folder, data, evaluation, [], [])
    with scoring_into(folder) if is_main_process() else nullcontext():
        present = _retrieval(at)
        _drawing(at, present)  # by every process: they embed what was drawn together
        _try_on(at)  # likewise: they share the pairs
        if is_main_process():
            _captions(at, [name for name in present if not is_composed(name)])
            if not at.scores:
                raise UserError(f"--dataset all: nothing can be measured below {data.root()}: {'; '.join(at.lacking)}")
            write_scores(folder, at.scores)
    return at.scores, at.lacking, folder


def _retrieval(at: Checkpoint) -> list[str]:
    """Score retrieval on every set that is there; return the names of the sets that are."""
    name, present = at.network.config.model_name, []
    for spec in retrieval_sets():
        part = replace(at.data, dataset=spec.name)
        if spec.headline is None:
            continue
        try:
            spec.find(at.data.root())
            (read_composed if spec.composed else read_pairs)(part, "val")
        except NoSplit as error:
            at.lacking.append(f"{spec.name}: {error}")
            continue
        present.append(spec.name)
        if spec.kind not in VARIANTS[name].kinds:
            at.lacking.append(f"{spec.name}: a {name} retrieves no {spec.kind} data")
            continue
        output = at.folder / spec.name
        output.mkdir(parents=True, exist_ok=True)
        evaluation = at.evaluation if spec.composed else replace(at.evaluation, rerank_by="target")
        at.scores += retrieval.validate(at.network, part, evaluation, at.path, output=output)[0]
    suffix = at.evaluation.rerank_suffix
    if at.evaluation.rerank_by != "target" and not any(score.protocol.endswith(suffix) for score in at.scores):
        at.lacking.append(f"re-ranking by {at.evaluation.rerank_by}: no composed queries were scored")
    return present


def _captions(at: Checkpoint, datasets: Sequence[str]) -> None:
    """Write captions of the image-text sets and score them."""
    try:
        captioner = Captioner.from_pretrained(at.path)
    except UserError as error:
        at.lacking.append(f"captions: {error}")
        return
    if shutil.which("java") is None:
        at.lacking.append("captions: scoring them needs Java (Debian and Ubuntu: apt-get install default-jre)")
        return
    from unifashion.evaluation.captions import score_files
    from unifashion.llm.caption_file import Job, caption_files, name_images
    from unifashion.models.generation import Decoding

    for name in datasets:
        read = read_pairs(replace(at.data, dataset=name), "val")
        pairs = _spaced(read.pairs, at.evaluation.num_queries)
        pairs = [pair for pair in pairs if pair.text.strip()]
        if not pairs:
            at.lacking.append(f"captions of {name}: its validation split has no texts")
            continue
        images = [pair.image for pair in pairs]
        out = at.folder / name / "predictions.jsonl"
        skipped = caption_files(captioner, Job(images, out, Decoding(48)), {"model": at.path}, overwrite=True)
        ids = zip(name_images(images), pairs, strict=True)
        rows = ({"id": key, "captions": [pair.text]} for key, pair in ids if pair.image not in skipped.reasons)
        write_jsonl(out.with_name("references.jsonl"), rows)
        at.scores += score_files(out, out.with_name("references.jsonl"), dataset=name, split=read.split, model=at.path)


def _drawing(at: Checkpoint, datasets: Sequence[str]) -> None:
    """Draw from photos with their words, and from composed queries, and look the true garments up."""
    heads = find_heads(at.path)
    if heads is None or read_heads(heads).diffusion_model is None:
        at.lacking.append("drawing: the checkpoint has no diffusion head (--losses ...+q2i)")
        return
    designer = Designer.from_pretrained(at.path)
    for name in datasets:
        part = replace(at.data, dataset=name)
        if is_composed(name):
            for split in read_composed(part, "val"):
                queries = [query for query in split.answerable() if query.target in split.images]
                chosen = _spaced(queries, at.evaluation.num_drawings)
                words = [query_text(split, query) for query in chosen]
                references = [split.images[query.reference] for query in chosen]
                gallery = {key: split.images[key] for key in split.gallery if key in split.images}
                targets = [str(query.target) for query in chosen]
                measured = _cycle(at, designer, references, words, targets, gallery, "cycle/composed")
                at.add(name, split.split, [replace(one, category=split.category) for one in measured])
            continue
        read = read_pairs(part, "val")
        views: dict[str, list[ImageText]] = {}
        for pair in read.pairs:
            views.setdefault(pair.product, []).append(pair)
        gallery = {product: pairs[0].image for product, pairs in views.items()}
        # Drawn from another view, so that what is looked for has not been seen.
        others = _spaced([pairs[-1] for pairs in views.values() if len(pairs) > 1], at.evaluation.num_drawings)
        if len(others) < 2:
            at.lacking.append(f"drawing of {name}: no products with a second photo to draw from")
            continue
        images, texts, products = ([getattr(pair, key) for pair in others] for key in ("image", "text", "product"))
        at.add(name, read.split, _cycle(at, designer, images, texts, products, gallery, "cycle/design", images))


def _try_on(at: Checkpoint) -> None:
    """Draw the first test pairs of every try-on set with the model in the same folder, and score them as CatVTON does."""
    model = find_pipeline(Path(at.path) / BESIDE)
    if model is None:
        at.lacking.append(
            f"try-on: there is no try-on model in {Path(at.path) / BESIDE} (train one with --output-dir there)"
        )
        return
    from unifashion.evaluation.image_networks import weights_folder
    from unifashion.evaluation.tryon_results import read_results, score_folder
    from unifashion.tryon.inference import run_inference
    from unifashion.tryon.settings import TryOnInferenceSettings

    denoiser, root = read_json(model / "denoiser" / "config.json") or {}, at.data.root()
    for spec in (spec for spec in tryon_sets() if not spec.part_of):
        try:
            split = read_tryon(spec.name, root, "test", (*PERSON_MAPS, "garment"))
        except NoSplit as error:
            at.lacking.append(f"try-on on {spec.name}: {error}")
            continue
        output = at.folder / f"{spec.name}-tryon"
        run_inference(
            TryOnInferenceSettings(
                dataset=spec.name,
                data_root=str(root),
                model_path=str(model),
                retriever=at.path if denoiser.get("retriever") else None,
                output_dir=str(output),
                limit=at.evaluation.num_drawings,
                num_inference_steps=at.evaluation.drawing_steps,
            )
        )
        if not is_main_process():
            continue
        results = read_results(output, split, model=at.path)
        drawn = replace(split, items=results.items, missing=())
        scores, lacking = score_folder(
            replace(results, lacking=()),
            drawn,
            "paired",
            ("catvton",),
            weights_folder(),
            dataset=spec.name,
            synthetic=is_synthetic(find_tryon(spec.name, root)),
        )
        at.scores += scores
        at.lacking += [f"try-on on {spec.name}: {reason}" for reason in lacking]


def _cycle(
    at: Checkpoint,
    designer: Designer,
    images: Sequence[Path],
    words: Sequence[str],
    truth: Sequence[str],
    gallery: dict[str, Path],
    protocol: str,
    photos: Sequence[Path] | None = None,
) -> list[Measurement]:
    """Draw and look up; ``photos`` takes the place of the true garments' own, which would find themselves."""
    settings = at.evaluation
    drawn = designer.design(
        images, words, steps=settings.drawing_steps, guidance=settings.drawing_guidance, seed=settings.eval_seed
    )
    return cycle_scores(drawn, truth, gallery, at.network, protocol=protocol, photos=photos)


def _spaced(rows: Sequence[Item], most: int) -> list[Item]:
    """Return up to ``most`` rows, evenly spaced."""
    step = max(len(rows) / most, 1.0)
    return [rows[int(index * step)] for index in range(int(len(rows) / step))]


def summary(scores: Sequence[Score]) -> dict[str, str]:
    """Return the columns of the paper's ablation, "-" where one was not measured."""
    found = {}
    for title, protocol, metric in COLUMNS:
        values = [
            score.value
            for score in scores
            if _is(score, protocol, metric) and score.category in ("", MEAN) and "photo" not in score.protocol
        ]
        found[title] = f"{values[0]:.2f}" if values else "-"
    return found


def _is(score: Score, protocol: str, metric: str) -> bool:
    """Return whether a score is of a protocol; that of a cycle names its retrieval model behind it."""
    own = score.protocol == protocol or (protocol.startswith("cycle/") and score.protocol.startswith(f"{protocol}+"))
    return own and score.metric == metric and not score.protocol.endswith("+chance")

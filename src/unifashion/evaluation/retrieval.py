"""Validate a retrieval model: read a data set, embed it, run its protocols, return score rows.

Which data set is scored how:
    fashiongen   fashiongen/sub100, fashiongen/full, and fashiongen/blocks100 where val100_object.jsonl is there
    catalogue    catalogue/full
    fashioniq    fashioniq/original, original-noref and union, for every category (blip2_cir_rerank)
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.feedback import evaluation_feedback
from unifashion.data.records import ComposedSplit, ImageText
from unifashion.data.sets import is_composed, read_blocks, read_composed, read_pairs, root_marks
from unifashion.errors import UserError
from unifashion.evaluation.embed import Embedder
from unifashion.evaluation.examples import examples_sheet
from unifashion.evaluation.protocols import catalogue, fashiongen, fashioniq
from unifashion.evaluation.protocols.catalogue import ProductEmbeddings
from unifashion.evaluation.protocols.fashioniq import CategoryScores
from unifashion.evaluation.ranks import best_query_scores, merge_reranked, target_ranks, top_k
from unifashion.evaluation.scores import MEAN, Metric, Score, as_scores, check_missing, missing_percent
from unifashion.models.presets import VARIANTS
from unifashion.models.unifashion import UniFashion

log = logging.getLogger(__name__)

Sheet = Callable[[], Image.Image]

# The line whose mean picks the best checkpoint.
HEADLINE = {"fashiongen": "fashiongen/sub100", "catalogue": "catalogue/full", "fashioniq": "fashioniq/original"}


def validate(
    model: UniFashion,
    data: DataSettings,
    evaluation: EvaluationSettings,
    model_id: str = "",
    marks: Sequence[str] = (),
    progress: bool = True,
    examples: Path | None = None,
) -> tuple[list[Score], float]:
    """Score a model on the validation split of ``data.dataset``.

    Args:
        model: the model, on the device it should run on.
        data: data set, root, and how much of it may be missing.
        evaluation: batch size, draws, re-ranking.
        model_id: how score rows name the checkpoint.
        marks: facts about the checkpoint that every score must carry.
        progress: show progress bars.
        examples: where to write a picture of some queries with their best answers; None = nowhere.

    Returns:
        score rows, and the mean that picks the best checkpoint (``HEADLINE``).

    Raises:
        UserError: the model was made for another task, or too much of the data is missing.
    """
    name = model.config.model_name
    if is_composed(data.dataset) != VARIANTS[name].has_prompt_tokens:
        fitting = "fashioniq" if VARIANTS[name].has_prompt_tokens else "fashiongen or catalogue"
        raise UserError(f"{name} is not evaluated on {data.dataset}; use --dataset {fitting}")
    embedder = Embedder(model, evaluation.eval_batch_size, data.num_workers, progress)
    marks = (*marks, *root_marks(data))
    run = _composed if is_composed(data.dataset) else _cross_modal
    scores, sheet = run(embedder, data, evaluation, model_id, marks)
    if examples is not None:
        examples.parent.mkdir(parents=True, exist_ok=True)
        sheet().save(examples)
    return scores, headline(scores, HEADLINE[data.dataset])


def headline(scores: Sequence[Score], protocol: str) -> float:
    """Return the mean of one protocol's line, or of all its values where it reports no mean."""
    values = [score.value for score in scores if score.protocol == protocol and score.metric == MEAN]
    values = values or [score.value for score in scores]
    return sum(values) / len(values)


def _cross_modal(
    embedder: Embedder, data: DataSettings, evaluation: EvaluationSettings, model_id: str, marks: Sequence[str]
) -> tuple[list[Score], Sheet]:
    split = read_pairs(data, "val")
    listed = len(split.pairs) + len(split.missing)
    check_missing(len(split.pairs), listed, data.max_missing, "images")
    image_NVD, broken = embedder.images([pair.image for pair in split.pairs])
    note = check_missing(len(split.pairs) - len(broken), listed, data.max_missing, "images")
    missing = missing_percent(len(split.pairs) - len(broken), listed)
    keep = [row for row, pair in enumerate(split.pairs) if pair.image not in broken]
    pairs = [split.pairs[row] for row in keep]
    embeddings = embed_products(embedder, pairs, image_NVD[keep])
    metrics = _pair_protocols(data, evaluation, embeddings)
    if evaluation.rerank:
        metrics += _reranked_full(embedder, data.dataset, evaluation.rerank, pairs, embeddings)
    if data.dataset == "fashiongen":
        metrics += _blocks(embedder, data, {pair.image: row for row, pair in enumerate(pairs)}, embeddings)
    if missing:
        marks = (*marks, "incomplete")
    scores = as_scores(
        metrics,
        dataset=data.dataset,
        split="val",
        model=model_id,
        missing=missing,
        marks=marks,
        note=note if missing else "",
    )
    return scores, lambda: _pair_examples(pairs, embeddings)


def embed_products(embedder: Embedder, pairs: Sequence[ImageText], image_NVD: Tensor) -> ProductEmbeddings:
    """Join image vectors with one text vector per product (the text of its first view)."""
    text_of = _text_of_product(pairs)
    subcategories = [pair.subcategory for pair in pairs]
    return ProductEmbeddings(
        images=image_NVD,
        texts=embedder.texts(list(text_of.values())),
        image_product=[pair.product for pair in pairs],
        text_product=list(text_of),
        image_subcategory=subcategories if all(subcategories) else (),
    )


def _text_of_product(pairs: Sequence[ImageText]) -> dict[str, str]:
    text_of: dict[str, str] = {}
    for pair in pairs:
        text_of.setdefault(pair.product, pair.text)
    return text_of


def _pair_protocols(data: DataSettings, evaluation: EvaluationSettings, embeddings: ProductEmbeddings) -> list[Metric]:
    if data.dataset == "catalogue":
        return catalogue.full(embeddings)
    if not embeddings.image_subcategory:
        log.warning("fashiongen/sub100 left out: the annotation rows have no 'subcategory'")
        return fashiongen.full(embeddings)
    drawn = fashiongen.sub100(
        embeddings,
        num_draws=evaluation.num_draws,
        num_queries=evaluation.num_queries,
        num_negatives=evaluation.num_negatives,
        seed=evaluation.eval_seed,
    )
    return drawn + fashiongen.full(embeddings)


def _blocks(
    embedder: Embedder, data: DataSettings, row_of: dict[Path, int], embeddings: ProductEmbeddings
) -> list[Metric]:
    """Run ``fashiongen/blocks100`` where the data set has its rows; image vectors that are there are used again."""
    blocks = read_blocks(data)
    if blocks is None:
        return []
    absent = [pair.image.name for pair in blocks.pairs if pair.image not in row_of]
    if absent or blocks.missing:
        log.warning("fashiongen/blocks100 left out: %d of its images cannot be used", len(absent) + len(blocks.missing))
        return []
    image_RVD = embeddings.images[[row_of[pair.image] for pair in blocks.pairs]]
    return fashiongen.blocks100(image_RVD, embedder.texts([pair.text for pair in blocks.pairs]))


def _reranked_full(
    embedder: Embedder, dataset: str, k: int, pairs: Sequence[ImageText], embeddings: ProductEmbeddings
) -> list[Metric]:
    """Run the full protocol again with the best ``k`` of every query re-ordered by the matching head, both ways."""
    paths, texts = [pair.image for pair in pairs], list(_text_of_product(pairs).values())
    scores_MN = best_query_scores(embeddings.texts, embeddings.images)
    positive_MN = embeddings.text_codes[:, None] == embeddings.image_codes
    ranks = {}
    for direction, scores_QG, positive_QG in (("i2t", scores_MN.T, positive_MN.T), ("t2i", scores_MN, positive_MN)):
        top_QK = top_k(scores_QG, k)
        query_QK = torch.arange(len(top_QK))[:, None].expand_as(top_QK)
        text_QK, image_QK = (top_QK, query_QK) if direction == "i2t" else (query_QK, top_QK)
        itm_P = embedder.match(texts, paths, torch.stack([text_QK.flatten(), image_QK.flatten()], dim=1))
        ranks[direction] = [target_ranks(merge_reranked(scores_QG, top_QK, itm_P.view_as(top_QK)), positive_QG)]
    gallery = {"i2t": len(texts), "t2i": len(paths)}
    return catalogue.two_way_metrics(f"{dataset}/full+itm{k}", ranks, gallery, (1, 5, 10))


def _pair_examples(pairs: Sequence[ImageText], embeddings: ProductEmbeddings) -> Image.Image:
    queries = [(None, text) for text in _text_of_product(pairs).values()]
    positive_MN = embeddings.text_codes[:, None] == embeddings.image_codes
    targets = [set(row.nonzero()[:, 0].tolist()) for row in positive_MN]
    scores_MN = best_query_scores(embeddings.texts, embeddings.images)
    return examples_sheet(queries, scores_MN, targets, [pair.image for pair in pairs])


def _composed(
    embedder: Embedder, data: DataSettings, evaluation: EvaluationSettings, model_id: str, marks: Sequence[str]
) -> tuple[list[Score], Sheet]:
    scored = [_score_category(embedder, evaluation, split, data.max_missing) for split in read_composed(data, "val")]
    splits = [split for split, _ in scored]
    queries = sum(len(split.answerable()) for split in splits), sum(len(split.queries) for split in splits)
    gallery = sum(scores.scores.shape[1] for _, scores in scored), sum(len(set(split.gallery)) for split in splits)
    missing = max(missing_percent(*queries), missing_percent(*gallery))
    note = check_missing(*queries, data.max_missing, gallery=gallery) if missing else ""
    metrics = fashioniq.evaluate([scores for _, scores in scored])
    if evaluation.rerank:
        metrics = [replace(metric, protocol=f"{metric.protocol}+itm{evaluation.rerank}") for metric in metrics]
    if missing:
        marks = (*marks, "incomplete")
    scores = as_scores(
        metrics, dataset=data.dataset, split="val", model=model_id, missing=missing, marks=marks, note=note
    )
    return scores, lambda: _composed_examples(*scored[0])


def _composed_examples(split: ComposedSplit, scored: CategoryScores) -> Image.Image:
    answered = split.answerable()
    queries = [(split.images[query.reference], evaluation_feedback(query.feedback)) for query in answered]
    row_of = {name: row for row, name in enumerate(scored.gallery)}
    targets = [{row_of[name]} for name in scored.targets]
    return examples_sheet(queries, scored.scores, targets, [split.images[name] for name in scored.gallery])


def _score_category(
    embedder: Embedder, evaluation: EvaluationSettings, split: ComposedSplit, max_missing: float
) -> tuple[ComposedSplit, CategoryScores]:
    """Score the answerable queries of one category against its gallery; returns the split without broken images too.

    Raises:
        UserError: more than ``max_missing`` percent of the queries or of the gallery cannot be used.
    """
    _check(split, max_missing)
    names = [name for name in dict.fromkeys(split.gallery) if name in split.images]
    image_GVD, broken = embedder.images([split.images[name] for name in names])
    others = {split.images[query.reference] for query in split.answerable()} - {split.images[name] for name in names}
    broken |= embedder.find_broken(sorted(others)) if others else {}
    if broken:
        image_GVD = image_GVD[[row for row, name in enumerate(names) if split.images[name] not in broken]]
        split = replace(split, images={name: path for name, path in split.images.items() if path not in broken})
        for path, reason in broken.items():
            log.warning("%s left out: %s", path, reason)
        _check(split, max_missing)

    queries = split.answerable()
    feedback = [evaluation_feedback(query.feedback) for query in queries]
    fused_QD = embedder.composed([split.images[query.reference] for query in queries], feedback)
    scores_QG = best_query_scores(fused_QD, image_GVD)
    gallery = fashioniq.split_gallery(split)
    if evaluation.rerank:
        top_QK = top_k(scores_QG, evaluation.rerank)
        query_QK = torch.arange(len(top_QK))[:, None].expand_as(top_QK)
        pairs_P2 = torch.stack([query_QK.flatten(), top_QK.flatten()], dim=1)
        itm_P = embedder.match(feedback, [split.images[name] for name in gallery], pairs_P2)
        scores_QG = merge_reranked(scores_QG, top_QK, itm_P.view_as(top_QK))
    scored = fashioniq.category_scores(split, scores_QG)
    if split.captions and not evaluation.rerank:
        captioned = [row for row, name in enumerate(gallery) if name in split.captions]
        caption_GD = torch.zeros(len(gallery), image_GVD.shape[-1])
        caption_GD[captioned] = embedder.texts([split.captions[gallery[row]] for row in captioned])
        scored = replace(scored, captioned=fashioniq.with_captions(scores_QG, fused_QD, caption_GD))
    return split, scored


def _check(split: ComposedSplit, max_missing: float) -> None:
    gallery = set(split.gallery)
    present = len(gallery & set(split.images))
    check_missing(len(split.answerable()), len(split.queries), max_missing, gallery=(present, len(gallery)))


def validate_checkpoint(
    model_path: str,
    model_name: str,
    output_dir: str | None,
    data: DataSettings,
    evaluation: EvaluationSettings,
) -> tuple[list[Score], Path]:
    """Load a checkpoint, validate it, and say where its scores belong.

    Raises:
        UserError: no checkpoint there, or one of another named model; see also ``validate``.
    """
    transformers_logging.set_verbosity_error()
    model = UniFashion.from_pretrained(model_path)
    if model.config.model_name != model_name:
        raise UserError(
            f"{model_path} holds a {model.config.model_name}, not a {model_name}; "
            f"set --blip-model-name {model.config.model_name}"
        )
    home = Path(model_path) if Path(model_path).is_dir() else Path("runs")
    folder = Path(output_dir) if output_dir is not None else home / "validate" / data.dataset
    network = model.to(Accelerator().device)
    scores, _ = validate(network, data, evaluation, model_path, examples=folder / "examples.png")
    return scores, folder

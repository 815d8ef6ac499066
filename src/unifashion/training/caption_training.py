"""Build the task of ``blip2_cir_full`` from settings: its heads, and the texts that they learn from."""

from unifashion.config import DataSettings, LanguageModelSettings, TrainingSettings
from unifashion.data.batches import ComposedRows, PairRows
from unifashion.errors import UserError
from unifashion.llm.build import add_heads
from unifashion.llm.prompts import instruction_for
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.tasks.caption import CaptionTask


def make_caption_task(
    network: UniFashionModel,
    rows: PairRows | ComposedRows,
    data: DataSettings,
    init_from: str | None,
    training: TrainingSettings,
    language: LanguageModelSettings,
) -> CaptionTask:
    """Add the heads of ``blip2_cir_full`` to the network and return the task that trains them.

    Raises:
        UserError: heads that cannot be loaded, or rows without anything for them to learn.
    """
    answers = [text for text in map(rows.answer, range(len(rows))) if text.strip()]
    full = add_heads(network, language, instruction_for(data.dataset), lambda: answers, init_from)
    if full.diffusion is None and not answers:
        raise UserError(
            f"{data.dataset} has no captions to learn from; choose other data, or draw with --diffusion-model"
        )
    if full.diffusion is not None and data.feature_cache is not None:
        raise UserError("--feature-cache keeps no pixels, which drawing needs; leave one of them out")
    return CaptionTask(full, training, data.augment)

"""The tasks: which passes run, which losses come out. One file per task; ``task.py`` has the interface to the trainer."""

from unifashion.training.tasks.composed import ComposedTask
from unifashion.training.tasks.contrastive import ContrastiveTask
from unifashion.training.tasks.cross_modal import CrossModalTask

__all__ = ["RETRIEVAL_TASKS"]

# By the model's name; a blip2_cir_full has the task of its data. Try-on (tryon.py) needs libraries that take seconds to import,
# so it is imported only where it is trained.
RETRIEVAL_TASKS: dict[str, type[ContrastiveTask]] = {
    "blip2_cir_cls": CrossModalTask,
    "blip2_cir_rerank": ComposedTask,
}


def task_class(model_name: str, composed: bool) -> type[ContrastiveTask]:
    """Return the task that trains a named model on composed queries, or on images with texts."""
    return RETRIEVAL_TASKS.get(model_name) or RETRIEVAL_TASKS["blip2_cir_rerank" if composed else "blip2_cir_cls"]

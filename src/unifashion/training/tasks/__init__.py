"""The tasks: which passes run, which losses come out. One file per task; ``task.py`` has the interface to the trainer."""

from unifashion.training.tasks.composed import ComposedTask
from unifashion.training.tasks.contrastive import ContrastiveTask
from unifashion.training.tasks.cross_modal import CrossModalTask

__all__ = ["RETRIEVAL_TASKS"]

# The tasks of the retrieval networks, by the model's name. Captions (caption.py) and try-on (tryon.py) need libraries that take
# seconds to import, so they are imported only where they are trained.
RETRIEVAL_TASKS: dict[str, type[ContrastiveTask]] = {
    "blip2_cir_cls": CrossModalTask,
    "blip2_cir_rerank": ComposedTask,
}

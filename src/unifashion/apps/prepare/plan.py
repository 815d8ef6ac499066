"""The plan for one data set: the files to make, and the annotations that are written last."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unifashion.apps.prepare.job_runner import Done, Job
from unifashion.data.datasets import DatasetSpec

QUALITY = 95  # of the JPEGs that are written


@dataclass(frozen=True)
class Options:
    """max_side: larger photos are shrunk to this side (own catalogue); 0 = as they are. num_threads: files at a time."""

    max_side: int = 0
    num_threads: int = 8


@dataclass
class Plan:
    """What has to be done for one set.

    jobs: files to make; may be an iterator.
    total: how many.
    finish: writes the annotations when the jobs are done.
    num_bytes: the size of all files, where it is known before they are made (archives).
    in_order: each job needs the one before it (archives).
    """

    jobs: Iterable[Job]
    total: int
    finish: Callable[[Path, Done], None] = field(default=lambda folder, done: None)
    in_order: bool = False
    num_bytes: int = 0


Recipe = Callable[[DatasetSpec, Sequence[Path], Options], Plan]  # how the sources of a set become a plan

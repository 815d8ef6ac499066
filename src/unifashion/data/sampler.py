"""Which rows make which batch: an order that depends on (seed, epoch) alone, cut into batches, dealt out to the processes.

Nothing here has state that could be lost: batch ``n`` of an epoch holds the same rows whether the epoch was read from its
start or entered in the middle, by one loader process or by many. Rows that do not fill a last optimiser step are left out;
the order differs from epoch to epoch, so they are different rows each time.
"""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from unifashion.data.mixture import epoch_rows, epoch_sizes

Key = tuple[int, int]  # (epoch, row)


class EpochSampler(Sampler[list[Key]]):
    """Batches of (epoch, row) keys for one process; with weights of 1 every row comes up at most once per epoch.

    A global batch holds ``batch_size`` rows for each of ``world_size`` processes; process 0 gets the first of them. The batches
    of two processes, put together, are therefore those of one process with twice the batch size.

    Attributes:
        epoch: which epoch the next pass yields.
        start: how many of its batches are skipped, because they were trained on before.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        seed: int,
        batch_size: int = 1,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        lengths: Sequence[int] | None = None,
        length_buckets: int = 0,
    ) -> None:
        """Lay out the epochs.

        Args:
            sizes: rows of each data set in the training set.
            weights: how often an epoch passes over each of them (data/mixture.py).
            seed: seed of the order.
            batch_size: rows per process and batch.
            accumulation_steps: batches per optimiser step; an epoch is a whole number of steps.
            rank: index of this process.
            world_size: number of processes.
            lengths: length of each row's text in any unit; needed for ``length_buckets``.
            length_buckets: global batches that are filled from one pool of rows sorted by length; 0 or 1 = at random.
        """
        self.sizes, self.weights = sizes, weights
        self.seed, self.batch_size = seed, batch_size
        self.rank, self.world_size = rank, world_size
        self.lengths, self.length_buckets = lengths, length_buckets
        self.global_batch = batch_size * world_size
        self.steps_per_epoch = sum(epoch_sizes(sizes, weights)) // (self.global_batch * accumulation_steps)
        self.batches_per_epoch = self.steps_per_epoch * accumulation_steps
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[Key]]:
        order, first = self.order(self.epoch), self.rank * self.batch_size
        for batch in range(self.start, self.batches_per_epoch):
            begin = batch * self.global_batch + first
            yield [(self.epoch, row) for row in order[begin : begin + self.batch_size]]

    def order(self, epoch: int) -> list[int]:
        """Return the rows of one epoch, of all processes, in the order in which they are trained on."""
        rng = random.Random(f"{self.seed}/{epoch}")
        order = epoch_rows(self.sizes, self.weights, self.seed, epoch)
        rng.shuffle(order)
        # Rows that do not fill an optimiser step are dropped: gather() needs the same number of rows on every process.
        order = order[: self.batches_per_epoch * self.global_batch]
        if self.lengths is None or self.length_buckets < 2:
            return order
        length_of, pool = self.lengths, self.length_buckets * self.global_batch
        batches = []
        for start in range(0, len(order), pool):
            by_length = sorted(order[start : start + pool], key=lambda row: length_of[row])
            batches += [by_length[i : i + self.global_batch] for i in range(0, len(by_length), self.global_batch)]
        rng.shuffle(batches)
        # Rows of one global batch are shuffled again: one process should not get all the shortest texts.
        return [row for batch in batches for row in rng.sample(batch, len(batch))]

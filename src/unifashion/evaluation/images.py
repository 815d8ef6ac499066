"""Measure generated images by one profile: open its networks, compute its metrics. What profiles are: image_inputs.py.

A protocol is ``tryon/PROFILE/PAIRING`` (``design/mgd/PAIRING``). What else changes a number is part of its name: ``+repaint``,
``+jpg`` (results that are not PNG), ``+NAME`` of a network that is not the profile's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import interval
from unifashion.evaluation.image_inputs import Device, Pair, Pairing, Pictures, Profile, Result
from unifashion.evaluation.metrics import ImageMetric, PairMetric, SetMetric, rows_of
from unifashion.evaluation.scores import Measurement


@dataclass
class Networks:
    """The networks that metrics use.

    opened: networks by the name of a metric; metrics that share one name the same.
    names: by the name of a metric, that of a network which is not the profile's.
    """

    opened: dict[str, nn.Module] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def can(self, metric: ImageMetric) -> bool:
        """Return whether a metric has its network, or needs none."""
        return metric.open_network is None or metric.name in self.opened


def wanted_metrics(profile: Profile, pairing: Pairing) -> list[ImageMetric]:
    """Return the metrics that a profile reports; of unpaired results, which have no true photo, only those of whole sets."""
    rows = [row for row in rows_of(ImageMetric) if profile.name in row.profiles]
    return [row for row in rows if pairing == "paired" or isinstance(row, SetMetric)]


def open_networks(profile: Profile, pairing: Pairing, folder: Path) -> tuple[Networks, list[str]]:
    """Open what a profile needs and ``folder`` has; for what it lacks, one sentence each that says how to get it."""
    networks, lacking = Networks(), []
    opened: dict[object, nn.Module | None] = {}  # by opener: metrics that share one share the network
    for row in wanted_metrics(profile, pairing):
        if row.open_network is None:
            continue
        if row.open_network not in opened:
            try:
                opened[row.open_network] = row.open_network(profile, folder)
            except UserError as error:
                lacking.append(str(error))
                opened[row.open_network] = None
        network = opened[row.open_network]
        if network is not None:
            networks.opened[row.name] = network
    return networks, lacking


def score_images(
    results: Sequence[Result],
    profile: Profile,
    pairing: Pairing,
    networks: Networks,
    *,
    repaint: bool = False,
    batch_size: int = 32,
    device: Device = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> list[Measurement]:
    """Measure results by one profile, as far as its networks are available.

    Args:
        results: the pictures, each once.
        profile: of ``PROFILES``.
        pairing: whether they show the garment of the photo.
        networks: see ``open_networks``; moved to the device.
        repaint: whether pixels of the photo were pasted back; named in the protocol.
        batch_size: pictures that a network sees at once.
        device: where the networks run.
        seed: of KID's subsets.
        progress: show a bar.

    Raises:
        UserError: no result, one for FID, files that cannot be read, a picture whose shape differs from the photo's, no mask or
            caption for CLIP-S.
    """
    if not results:
        raise UserError("there are no results to score")
    for network in networks.opened.values():
        network.to(device)
    rows = [row for row in wanted_metrics(profile, pairing) if networks.can(row)]
    protocol = protocol_name(profile, pairing, results, repaint)
    pictures = Pictures(results, profile, batch_size, device, seed, progress)
    pair_values = _pair_values([row for row in rows if isinstance(row, PairMetric)], pictures, networks)
    measurements = []
    for row in rows:
        name = protocol + (f"+{networks.names[row.name]}" if row.name in networks.names else "")
        if isinstance(row, SetMetric):
            of_set = row.compute(pictures, networks.opened.get(row.name))
            measurements.append(
                Measurement(
                    name,
                    row.name,
                    of_set.value,
                    len(results),
                    None,
                    std=of_set.std,
                    seeds=of_set.seeds,
                    note=of_set.note,
                )
            )
        else:
            values = pair_values[row.name]
            # ``interval`` turns fractions into percent; these values are not fractions, so its factor of 100 is undone.
            low, high = (None if bound is None else bound / 100 for bound in interval([values]))
            value = float(np.mean(values))
            measurements.append(Measurement(name, row.name, value, len(values), None, low=low, high=high))
    return measurements


def _pair_values(rows: Sequence[PairMetric], pictures: Pictures, networks: Networks) -> dict[str, list[float]]:
    """Return what every result scores by every metric, reading each picture once."""
    values: dict[str, list[float]] = {row.name: [] for row in rows}
    bar = tqdm(pictures.results if rows else (), desc="comparing", disable=not pictures.progress, dynamic_ncols=True)
    for result in bar:
        pair = Pair.read(result, pictures.profile, pictures.device)
        for row in rows:
            values[row.name].append(row.compute(pair, networks.opened.get(row.name)))
    return values


def protocol_name(profile: Profile, pairing: Pairing, results: Sequence[Result], repaint: bool) -> str:
    """Return the name under which numbers of these results may be compared."""
    task = "design" if profile.name == "mgd" else "tryon"
    return "+".join([f"{task}/{profile.name}/{pairing}", *suffixes(results, repaint)])


def suffixes(results: Sequence[Result], repaint: bool) -> list[str]:
    """Return what a protocol's name says about results besides how they are measured: repainted, and stored as what."""
    kinds = {result.picture.suffix.lower().lstrip(".").replace("jpeg", "jpg") for result in results}
    return [*(["repaint"] if repaint else []), *sorted(kinds - {"png"})]

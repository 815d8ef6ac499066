"""How the learning rate moves."""

import math
from pathlib import Path

import pytest
import torch

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.flags import parse
from unifashion.training.schedule import make_schedule

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "caption_ft.yaml"


def rates(settings, steps):
    """The learning rate and the first momentum of every step."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], settings.learning_rate, settings.betas)
    schedule = make_schedule(optimizer, steps, settings)
    found = []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        schedule.step() if len(found) < steps else None
    return found


def test_cosine_rises_straight_falls_along_half_a_cosine_and_leaves_the_momenta_alone():
    settings = TrainingSettings(
        schedule="cosine", learning_rate=2e-5, num_epochs=1, warmup_epochs=0.03, betas=(0.9, 0.99)
    )
    found = rates(settings, 100)
    expected = [2e-5 * (n / 3 if n < 3 else 0.5 * (1 + math.cos(math.pi * (n - 3) / 97))) for n in range(100)]
    assert [rate for rate, _ in found] == pytest.approx(expected, rel=1e-6)
    assert {momentum for _, momentum in found} == {0.9}


def test_one_cycle_starts_at_a_hundredth_of_its_peak_and_cycles_the_momentum():
    found = rates(TrainingSettings(learning_rate=1e-3, num_epochs=4, warmup_epochs=1), 40)
    assert found[0][0] == pytest.approx(1e-5) and max(rate for rate, _ in found) == pytest.approx(1e-3)
    assert found[-1][0] < 1e-7 and {round(found[0][1], 3), round(found[9][1], 3)} == {0.95, 0.85}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_even_the_shortest_runs_have_a_schedule(schedule, steps):
    settings = TrainingSettings(schedule=schedule, learning_rate=1e-3, num_epochs=8, warmup_epochs=2)
    assert all(0 <= rate <= 1e-3 + 1e-9 for rate, _ in rates(settings, steps))


def test_the_caption_experiment_has_the_settings_of_the_paper():
    groups = (DataSettings, ModelSettings, TrainingSettings, EvaluationSettings, LanguageModelSettings)
    _, model, training, _, language = parse(groups, ["--config", str(CONFIG)], "")
    assert model.blip_model_name == "blip2_cir_full" and (language.lora_r, language.lora_alpha) == (128, 256)
    assert (training.schedule, training.learning_rate, training.betas) == ("cosine", 2e-5, (0.9, 0.99))
    assert training.weight_decay == 0 and training.warmup_epochs / training.num_epochs == 0.03
    assert (language.lora_dropout, language.lora_targets, training.batch_size) == (0.05, "all-linear", 32)

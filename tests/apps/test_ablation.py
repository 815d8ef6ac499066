"""The ablation: which trainings its rows share, what each of them is told, and the table."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

from unifashion.apps import ablation
from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.evaluation.scores import Score, write_scores
from unifashion.flags import read_yaml, resolve

GROUPS = (DataSettings, ModelSettings, TrainingSettings, EvaluationSettings, LanguageModelSettings)


@pytest.fixture
def calls(monkeypatch):
    """The commands that are run; trainings leave a complete run, evaluations one score for each column."""
    made = []

    def call(command):
        made.append(list(command))
        flags = dict(itertools.pairwise(command))
        if command[1].endswith(("pretrain.sh", "cir_ft.sh")):
            run = Path(read_yaml(Path(flags["--config"]))["output_dir"])
            run.mkdir(parents=True)
            (run / "run.json").write_text(json.dumps({"state": "complete"}))
        elif command[1].endswith("vail.sh"):
            value = 1.0 + len(made)
            rows = [
                Score("set", protocol, "val", "", metric, value, 1, 1, 0.0, (), "m")
                for _, protocol, metric in ablation_columns()
            ]
            folder = Path(flags["--model-path"]) / "validate" / flags["--dataset"]
            folder.mkdir(parents=True)
            write_scores(folder, rows)

    monkeypatch.setattr(ablation, "_call", call)
    return made


def ablation_columns():
    from unifashion.evaluation.all_tasks import COLUMNS

    return COLUMNS


@pytest.mark.parametrize("size", ["toy", "paper"])
def test_rows_that_minimise_the_same_share_a_training_and_every_config_is_valid(calls, tmp_path, size):
    ablation.main(["--size", size, "--output-dir", str(tmp_path / "out")])
    trained = [command for command in calls if command[1].endswith(("pretrain.sh", "cir_ft.sh"))]
    assert [Path(command[1]).stem for command in trained] == [
        *("pretrain", "cir_ft", "pretrain", "cir_ft", "cir_ft", "pretrain", "cir_ft")
    ]
    for command in trained:
        path = Path(command[3])
        values = read_yaml(path)
        _, model, training, _, language = resolve(GROUPS, values)
        losses = training.named_losses()
        assert ("llm" in values or model.init_from is not None) or "itg" not in losses
        assert ("q2i" in losses) or language.diffusion_model is None
        assert ("ttc" in losses) != (training.composed_objective == "paper") or "cir_ft" not in path.stem
    done = len(calls)
    ablation.main(["--size", size, "--output-dir", str(tmp_path / "out")])
    rest = [command for command in calls[done:] if command[1].endswith(".sh")]
    assert not rest, "what is finished is reused"


def test_seeds_are_averaged_and_each_has_its_own_runs(calls, tmp_path):
    ablation.main(["--seeds", "2", "--output-dir", str(tmp_path / "out")])
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "2 seeds, mean ± deviation" in table
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        "| base",
        "| + language model",
        "| + captions",
        "| + diffusion",
    ]
    seeds = {yaml.safe_load(Path(command[3]).read_text())["seed"] for command in calls if "--config" in command}
    assert seeds == {0, 1}
    assert len(json.loads((tmp_path / "out" / "ablation.json").read_text())["base"]) == 2

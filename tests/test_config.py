from pathlib import Path

import pytest
import yaml

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.errors import UserError
from unifashion.flags import parse, parse_from_src, read_yaml, resolve, write_yaml
from unifashion.tryon.settings import TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings

GROUPS = (DataSettings, ModelSettings, TrainingSettings, EvaluationSettings)
CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("**/*.yaml"))
EXPERIMENTS = [path for path in CONFIGS if path.parent.name != "accelerate"]


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text("num_epochs: 7\nbatch_size: 9\n")
    training = parse(GROUPS, ["--config", str(file), "--num-epochs", "3"], "")[2]
    assert (training.num_epochs, training.batch_size, training.seed) == (3, 9, 0)


@pytest.mark.parametrize("flag", ["--num-epochs", "--num_epochs"])
def test_dashes_and_underscores_are_one(flag):
    assert parse(GROUPS, [flag, "3"], "")[2].num_epochs == parse(GROUPS, [f"{flag}=3"], "")[2].num_epochs == 3


def test_lists_and_switches():
    data, _, training, _ = parse(GROUPS, ["--betas", "0.8", "0.9", "--no-augment", "--cache_images"], "")
    assert training.betas == (0.8, 0.9) and not data.augment and data.cache_images


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--num-epoch", "3"], r"unknown flag --num-epoch \(did you mean '--num-epochs'\?\)"),
        (["--itc-weigth=2"], "did you mean '--itc-weight'"),
        (
            ["--dataset", "fashionqi"],
            r"dataset: 'fashionqi' is not one of fashiongen, .* \(did you mean 'fashioniq'\?\)",
        ),
        (
            ["--blip-model-name", "blip2"],
            r"--blip-model-name: 'blip2' is not one of .* \(did you mean 'blip2_cir_cls'\?\)",
        ),
        (["--batch-size", "many"], "--batch-size: expected a whole number, got 'many'"),
        (["--batch-size", "-1"], "--batch-size: must not be negative"),
        (["--batch-size", "0"], "--batch-size: must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate: must not be negative"),
        (["--betas", "0.9"], "expected 2 arguments"),
        (["stray"], "unexpected argument 'stray'"),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_bad_flags_are_one_sentence(argv, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        parse(GROUPS, argv, "")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("num_epoch: 3", "unknown setting 'num_epoch' .did you mean 'num_epochs'"),
        ("num_epochs: 3.5", "num_epochs: expected a whole number"),
        ("augment: maybe", "augment: expected true or false"),
        ("dataset: fashioniqq", "'fashioniqq' is not one of fashiongen, .* .did you mean 'fashioniq'"),
        ("- a list", "expected lines of 'setting: value'"),
        ("a: [", "not a readable YAML file"),
    ],
)
def test_bad_files_are_one_sentence_that_names_the_file(tmp_path, text, sentence):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        parse(GROUPS, ["--config", str(file)], "")
    assert "broken.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(path.parents[1])))
def test_every_experiment_file_fits_the_schema_and_says_how_to_run_it(path):
    if "tryon" in path.name:
        groups = (TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings)
    else:
        groups = (*GROUPS, LanguageModelSettings)
    resolve(groups, read_yaml(path))
    assert "# command" in path.read_text()


def test_the_data_root_is_the_flag_then_the_environment_then_dataset(monkeypatch):
    for value, root in (("elsewhere", "elsewhere"), ("", "dataset")):
        monkeypatch.setenv("UNIFASHION_DATA", value)
        assert DataSettings().root() == Path(root)
        assert DataSettings(dataset="catalogue").root() == Path(root) / "catalogue"
        assert DataSettings(data_root="here").root() == Path("here")


def test_written_settings_read_back_equal(tmp_path):
    groups = resolve(GROUPS, {"num_epochs": 4, "betas": [0.5, 0.6], "data_root": None})
    write_yaml(tmp_path / "config.yaml", groups)
    assert resolve(GROUPS, yaml.safe_load((tmp_path / "config.yaml").read_text())) == groups


def test_every_setting_has_a_doc_that_help_shows(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(GROUPS, ["--help"], "Train one phase.")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    for group in GROUPS:
        for name, setting in group.__dataclass_fields__.items():
            assert setting.metadata["doc"].split()[0] in shown
            assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize("called_from", ["src/llava/LLaVA", "src", ".", "elsewhere"])
def test_inside_src_paths_are_those_of_the_top_folder_and_help_says_so(tmp_path, monkeypatch, capsys, called_from):
    (tmp_path / called_from).mkdir(parents=True, exist_ok=True)
    config = tmp_path / ("elsewhere" if called_from == "elsewhere" else ".") / "mine.yaml"
    config.write_text("num_epochs: 7\n")
    monkeypatch.chdir(tmp_path / called_from)
    (training,) = parse_from_src((TrainingSettings,), ["--config", "mine.yaml"], "Train.", tmp_path / "src")
    assert training.num_epochs == 7
    assert Path.cwd() == config.parent
    with pytest.raises(SystemExit):
        parse_from_src((TrainingSettings,), ["--help"], "Train.", tmp_path / "src")
    assert "paths are those of the project's top folder" in " ".join(capsys.readouterr().out.split())

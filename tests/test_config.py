from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.errors import UserError
from unifashion.flags import REQUIRED, argument, parse, parse_from_src, read_yaml, resolve, setting, write_yaml
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
        (["--batch-size", "-1"], "--batch-size: must be at least 1"),
        (["--batch-size", "0"], "--batch-size: must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate: expected a number, got 'nan'"),
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
    assert resolve(GROUPS, read_yaml(tmp_path / "config.yaml")) == groups


def test_every_setting_has_a_doc_that_help_shows(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(GROUPS, ["--help"], "Train one phase.")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    for group in GROUPS:
        for name, item in group.__dataclass_fields__.items():
            assert item.metadata["doc"].split()[0] in shown
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
    assert "paths are relative to the project's top folder" in " ".join(capsys.readouterr().out.split())


# ---- commands: positional arguments, short flags, lists, what is required


@dataclass(frozen=True, kw_only=True)
class CopySettings:
    """Copy: what goes where."""

    source: Path = argument("what is copied")
    text: str = argument("a remark", "")
    out: Path = setting(REQUIRED, "folder to write", short="-o")
    kind: Literal["hard", "soft"] | None = setting(None, "of links")
    set: str = setting("a", "of data", choices=("a", "b"))
    image: tuple[str, ...] = setting((), "one each time", repeat=True)
    profile: tuple[Literal["x", "y"], ...] = setting(("x",), "several at once")
    limit: int | None = setting(None, "at most", least=1, most=9)


@dataclass(frozen=True)
class ManySettings:
    """Many: all that is left."""

    file: tuple[Path, ...] = argument("a file", name="FILE")


def copy(*words: str) -> CopySettings:
    return parse((CopySettings,), words, "Copy.", "copy")[0]


def test_positional_arguments_may_stand_before_between_and_behind_flags():
    expected = CopySettings(source=Path("in"), text="a remark", out=Path("out"))
    assert copy("in", "a remark", "-o", "out") == expected
    assert copy("-o", "out", "in", "a remark") == expected
    assert copy("in", "--out", "out", "a remark") == expected
    assert copy("in", "--out=out").text == ""
    assert parse((ManySettings,), ["a", "b"], "", "many")[0].file == (Path("a"), Path("b"))


def test_lists_choices_and_types_of_commands():
    copied = copy("in", "-oout", "--image", "1", "--image", "2", "text", "--profile", "y", "x", "--kind", "soft")
    assert (copied.image, copied.profile, copied.kind, copied.text) == (("1", "2"), ("y", "x"), "soft", "text")
    assert copy("in", "-o", "out", "--set", "b", "--limit", "3").limit == 3
    assert resolve((CopySettings,), {"source": "in", "out": "out", "profile": ["y"]})[0].profile == ("y",)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "SOURCE is required: what is copied"),
        (["in"], "--out is required: folder to write"),
        (["in", "--oout", "x"], "unknown flag --oout (did you mean '--out'?); see copy --help"),
        (["in", "t", "more", "-o", "x"], "unexpected argument 'more'; see copy --help"),
        (["in", "-o", "x", "--kind", "sfot"], "--kind: 'sfot' is not one of hard, soft (did you mean 'soft'?)"),
        (["in", "-o", "x", "--set", "c"], "--set: 'c' is not one of a, b"),
        (["in", "-o", "x", "--profile", "y", "z"], "--profile: 'z' is not one of x, y"),
        (["in", "-o", "x", "--limit", "0"], "--limit: must be at least 1, got '0'"),
        (["in", "-o", "x", "--config", "c.yaml"], "unknown flag --config"),
    ],
)
def test_bad_words_of_a_command_are_one_sentence(words, sentence):
    with pytest.raises(UserError) as error:
        copy(*words)
    assert str(error.value).startswith(sentence)


def test_a_list_in_a_file_must_be_a_list():
    with pytest.raises(UserError, match="image: expected a list, got 'a'"):
        resolve((CopySettings,), {"source": "in", "out": "out", "image": "a"})
    with pytest.raises(UserError, match="FILE is required: a file"):
        parse((ManySettings,), [], "", "many")


def test_help_of_a_command_names_its_arguments_and_keeps_the_lines_of_its_examples(capsys):
    with pytest.raises(SystemExit):
        parse((CopySettings,), ["--help"], "Copy.\n\n    copy a    one\n    copy b    another\n", "copy")
    shown = capsys.readouterr().out
    assert shown.startswith(
        "usage: copy [-h] SOURCE [TEXT] [--SETTING VALUE ...]\n\nCopy.\n\n    copy a    one\n    copy b "
    )
    assert "--out PATH, -o PATH" in shown and "folder to write [required]" in shown and "--config" not in shown
    assert "--kind {hard,soft}" in shown and "--limit N" in shown and "several at once [x]" in shown

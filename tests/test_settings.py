"""Every setting of every program: its range, what its flag and its YAML key take; and that no input ends in a traceback."""

import dataclasses
import importlib.util
import math
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unifashion.cli import COMMANDS, load
from unifashion.config import LanguageModelSettings
from unifashion.data.settings import DataSettings
from unifashion.errors import UserError, sentence
from unifashion.flags import REQUIRED, UNLIMITED, _Setting, parse, read_yaml, resolve, setting
from unifashion.tryon.settings import TryOnInferenceSettings, data_root

SRC = Path(__file__).resolve().parents[1] / "src"
ENTRY_POINTS = [
    "blip_train.py",
    "blip_validate.py",
    "metrics.py",
    "UNIStableVITON/train.py",
    "UNIStableVITON/inference.py",
    "llava/LLaVA/inference.py",
    "unifashion/apps/ablation.py",
]


def declared_in(path: Path) -> list[type]:
    spec = importlib.util.spec_from_file_location(f"entry_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return [item for item in vars(module).values() if isinstance(item, type) and dataclasses.is_dataclass(item)]


GROUPS = {load(name).Settings for name in COMMANDS}
GROUPS |= {group for name in ENTRY_POINTS for group in declared_in(SRC / name)}
GROUPS = sorted(GROUPS, key=lambda group: (group.__module__, group.__name__))
SETTINGS = [(group, _Setting(field)) for group in GROUPS for field in dataclasses.fields(group)]
NUMBERS = [(group, item) for group, item in SETTINGS if item.kind in (int, float)]
TEXTS = [(group, item) for group, item in SETTINGS if item.kind not in (int, float, bool) and not item.choices]


def names(rows):
    return [f"{group.__module__.rpartition('.')[2]}.{group.__name__}.{item.name}" for group, item in rows]


def ends(item) -> tuple[float, float, float, float]:
    """The smallest and the largest number that a setting takes, and the nearest ones that it refuses."""
    within = item.form["range"]
    if item.kind is int:
        low = within.least if within.above is None else within.above + 1
        high = within.most if within.below is None else within.below - 1
        return low, high, low - 1, high + 1
    low = within.least if within.above is None else math.nextafter(within.above, math.inf)
    high = within.most if within.below is None else math.nextafter(within.below, -math.inf)
    return low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


def take(item, value):
    """What a setting makes of a value: as a flag where it is text, else as a Python value."""
    values = [value] * len(item.items) if item.items else value
    return item.typed(item.flag, values)


def test_the_table_holds_every_group_of_settings():
    listed = {Path(sys.modules[group.__module__].__file__).resolve() for group in GROUPS}
    declaring = {path for path in SRC.rglob("*.py") if " = setting(" in path.read_text()} - {
        SRC / "unifashion/flags.py"
    }
    assert declaring <= listed
    assert len(NUMBERS) > 80 and len(TEXTS) > 60


@pytest.mark.parametrize(("group", "item"), NUMBERS, ids=names(NUMBERS))
def test_a_number_is_taken_up_to_both_ends_and_refused_beyond_them(group, item):
    low, high, below, above = ends(item)
    assert high <= UNLIMITED or item.name.endswith("seed")
    for value in (low, high):
        for form in (value, repr(value)):
            assert take(item, form) in (value, (value,) * len(item.items))
    refused = [below, above, *map(repr, (below, above)), 10**30, "1" * 31, "1e30", "9" * 5000]
    for value in [
        *refused,
        "inf",
        "-inf",
        "nan",
        math.inf,
        -math.inf,
        math.nan,
        True,
        None,
        [],
        "",
        "1_0",
        "0x1",
        "1:30",
    ]:
        if value is None and item.is_optional:
            continue
        with pytest.raises(UserError) as error:
            take(item, value)
        assert str(error.value).startswith(f"{item.flag}: ") and "\n" not in str(error.value)
        assert len(str(error.value)) < 200
    default = item.default
    if default is not REQUIRED and default is not None:
        take(item, default[0] if item.items else default)


@pytest.mark.parametrize(("group", "item"), TEXTS, ids=names(TEXTS))
def test_a_text_is_not_empty_unless_that_means_something_and_begins_at_home(group, item, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = lambda value: value[0] if item.items else value  # noqa: E731
    typed = item.typed(item.flag, ["~/x"] if item.items else "~/x")
    assert str(first(typed)) == f"{tmp_path}/x"
    for value in ("", "  ", "a\0b", "\udcff", 3):
        if item.form["empty"] and value in ("", "  "):
            continue
        with pytest.raises(UserError) as error:
            item.typed(item.flag, [value] if item.items else value)
        assert str(error.value).startswith(f"{item.flag}: ")


def test_where_nothing_means_something_an_empty_text_is_taken():
    assert resolve((LanguageModelSettings,), {"drawing_prompt": ""})[0].drawing_prompt == ""


def test_a_number_without_an_upper_end_is_not_a_setting():
    @dataclasses.dataclass(frozen=True)
    class Open:
        """Open: at one end."""

        count: int = setting(0, "without an upper end")

    with pytest.raises(TypeError, match="count: declare the upper end"):
        resolve((Open,), {})


def test_help_shows_the_ranges(capsys):
    with pytest.raises(SystemExit):
        parse((DataSettings, LanguageModelSettings), ["--help"], "")
    shown = " ".join(capsys.readouterr().out.split())
    assert "[224; 16 to 1024]" in shown and "[1.0; 0 to 100]" in shown and "[0.05; 0 to below 1]" in shown


# The home folder ------------------------------------------------------------------------------------------------------


def test_no_folder_is_called_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNIFASHION_DATA", "~/data")
    assert data_root("vitonhd", None) == DataSettings().root() == tmp_path / "data"
    (settings,) = parse((TryOnInferenceSettings,), ["--output-dir=~/out", "--pairs", "~"], "")
    assert (settings.output_dir, settings.pairs) == (f"{tmp_path}/out", str(tmp_path))
    config = tmp_path / "a.yaml"
    config.write_text("output_dir: ~/runs/a\n")
    assert parse((TryOnInferenceSettings,), ["--config", "~/a.yaml"], "")[0].output_dir == f"{tmp_path}/runs/a"
    with pytest.raises(UserError, match=r"there is no home folder ~nobody-here; write \./~nobody-here/x"):
        parse((TryOnInferenceSettings,), ["--output-dir", "~nobody-here/x"], "")


# YAML -----------------------------------------------------------------------------------------------------------------


def from_yaml(tmp_path, content: str | bytes) -> tuple:
    file = tmp_path / "a.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return parse((DataSettings, LanguageModelSettings), ["--config", str(file)], "")


def test_numbers_are_read_as_people_write_them(tmp_path):
    data, language = from_yaml(tmp_path, "max_missing: 1e-4\nimage_size: 032\npad_ratio: 2\nlora_dropout: .5\n")
    assert (data.max_missing, data.image_size, data.pad_ratio, language.lora_dropout) == (1e-4, 32, 2.0, 0.5)


def test_words_stay_words(tmp_path):
    text = (
        "instruction: 1:30\nllm: no\ndiffusion_model: 2024-01-01\ndata_root: 0o17\nfeature_cache: null\naugment: true\n"
    )
    data, language = from_yaml(tmp_path, text)
    assert (language.instruction, language.llm, language.diffusion_model) == ("1:30", "no", "2024-01-01")
    assert (data.data_root, data.feature_cache, data.augment) == ("0o17", None, True)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("yes: 1\n", "unknown setting 'yes'"),
        ("1: 1\n", "unknown setting '1'"),
        ("true: 1\n", "unknown setting 'true'"),
        ("null: 1\n", "unknown setting 'null'"),
        ("[a]: 1\n", "the name of a setting must be a word, line 1"),
        ("image_size: 32\nimage_size: 64\n", "'image_size' is there twice, line 2"),
        (BOMB, "an anchor is not a value, line 1"),
        ("a: *b\n", "an alias is not a value, line 1"),
        ("a: !!python/name:os.system\n", "a tag is not a value"),
        ("image_size: !!int 32\n", "a tag is not a value"),
        ("<<: {image_size: 32}\n", "unknown setting '<<'"),
        ("image_size: 1:30\n", "image_size: expected a whole number, got '1:30'"),
        ("image_size: 0o40\n", "image_size: expected a whole number"),
        ("image_size: 1_000\n", "image_size: expected a whole number"),
        ("image_size: 2024-01-01\n", "image_size: expected a whole number"),
        ("max_missing: .inf\n", "max_missing: expected a number"),
        ("max_missing: .nan\n", "max_missing: expected a number"),
        ("augment: yes\n", "augment: expected true or false, got 'yes'"),
        ("augment: 1\n", "augment: expected true or false"),
        ("dataset: [a, b]\n", "dataset: expected text"),
        ("data_root: ''\n", "data_root: is empty"),
        ("a: " + "[" * 5000 + "]" * 5000, "too deeply nested"),
        ("- " * 3000 + "a", "too deeply nested"),
        ("a: " * 300, "not a readable YAML file"),
        ("\timage_size: 32\n", "not a readable YAML file (found character '\\t' that cannot start any token, line 1)"),
        ("image_size: 32\x07\n", "not a readable YAML file"),
        ("image_size: 32\n---\nimage_size: 64\n", "not a readable YAML file"),
        ('a: "\\U00110000"\n', "not a readable YAML file"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", "not a readable YAML file"),
        ("image_size: 32\n".encode("utf-16"), "it is not in UTF-8"),
        ("image_size: 32\n".encode("utf-16-le"), "not a readable YAML file"),
        (b"dataset: caf\xe9\n", "it is not in UTF-8"),
        ("# " + "x" * 200_000, "larger than 100,000 bytes"),
        ("", "expected lines of 'setting: value'"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_traps_of_yaml_are_one_sentence_that_names_the_file(tmp_path, content, words):
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        from_yaml(tmp_path, content)
    assert words in str(error.value) and str(error.value).startswith(f"--config {tmp_path}/a.yaml: ")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 and time.monotonic() - started < 60


def test_a_byte_order_mark_is_no_fault(tmp_path):
    assert from_yaml(tmp_path, b"\xef\xbb\xbfimage_size: 32\n")[0].image_size == 32


def test_a_config_that_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, words in (
        (tmp_path / "pipe", "not a file"),
        (tmp_path, "not a file"),
        (Path("/dev/zero"), "not a file"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "absent.yaml", "no such file"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(UserError, match=words):
            parse((DataSettings,), ["--config", str(path)], "")
    with pytest.raises(UserError, match="--config: is empty"):
        parse((DataSettings,), ["--config="], "")


# Anything -------------------------------------------------------------------------------------------------------------

PROGRAMS = [(load(name).Settings,) for name in COMMANDS]
PROGRAMS += [tuple(declared_in(SRC / name)) for name in ENTRY_POINTS]
WORDS = st.one_of(
    st.text(),
    st.sampled_from(
        ["--", "-", "-h=", "--config", "-o", "1e400", "-1", "--betas", "0.9", "@file", "--no-augment=1", "~/"]
    ),
    st.sampled_from([item.flag for _, item in SETTINGS]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def settings_or_one_sentence(work, *arguments) -> None:
    started = time.monotonic()
    try:
        work(*arguments)
    except UserError as error:
        assert sentence(error).isprintable() and len(sentence(error)) < 1500
    except SystemExit as left:  # --help
        assert left.code == 0
    assert time.monotonic() - started < 10


@given(groups=st.sampled_from(PROGRAMS), words=st.lists(WORDS, max_size=6))
def test_any_command_line_gives_settings_or_one_sentence(groups, words):
    settings_or_one_sentence(parse, groups, words, "A program.", "a command" if len(groups) == 1 else "")


@given(data=st.data(), groups=st.sampled_from(PROGRAMS))
def test_any_values_give_settings_or_one_sentence(data, groups):
    known = [item.name for item in map(_Setting, (field for group in groups for field in dataclasses.fields(group)))]
    names = st.one_of(st.sampled_from(known), st.text())
    settings_or_one_sentence(resolve, groups, data.draw(st.dictionaries(names, VALUES, max_size=4)))


LINES = st.lists(
    st.sampled_from([*"-?:{}[]&*!|>'\"%@`#,~", "\n", "  ", "a", "<<", "\\U", "%YAML 1", "---", "...", "\t", "1"])
)


@given(content=st.text().map(str.encode) | st.binary() | LINES.map(lambda parts: "".join(parts).encode()))
def test_any_file_gives_settings_or_one_sentence(content, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    settings_or_one_sentence(read_yaml, file)


@given(values=st.dictionaries(st.text(), st.text() | st.booleans() | st.none() | st.lists(st.text()), min_size=1))
def test_what_is_written_is_read_back(values, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert read_yaml(file) == values

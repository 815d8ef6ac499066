"""The table of data sets: what a row promises, and what the settings and the reading functions make of it."""

import re
from dataclasses import replace

import pytest

from unifashion.config import DataSettings
from unifashion.data import datasets
from unifashion.data.annotations import NoSplit
from unifashion.data.datasets import DATASETS, DatasetSpec, names, register, retrieval_sets, spec_of, tryon_sets
from unifashion.data.records import ComposedSplit, ImageText, PairSplit
from unifashion.data.splits import is_composed, read_composed, read_pairs, root_marks, training_texts, validation_images
from unifashion.errors import UserError
from unifashion.flags import resolve
from unifashion.tryon.settings import TryOnDataSettings, TryOnInferenceSettings


@pytest.fixture
def table(monkeypatch):
    """The table, which may be changed."""
    rows = list(DATASETS)
    monkeypatch.setattr(datasets, "DATASETS", rows)
    monkeypatch.setattr("unifashion.data.splits.DATASETS", rows)
    return rows


def read_boots(root, split, options):
    return PairSplit("boots", split, (ImageText(root / f"{split}.png", f"a boot of {split}", "1"),))


def read_queries(root, split, options):
    return [ComposedSplit("boots", split, "", (), (), {}, {"options": str(options.needs_images)})]


BOOTS = DatasetSpec(
    name="boots", title="Boots", find=lambda root: root, pairs=read_boots, headline=("boots/full", "mean")
)


def test_names_are_unique_among_those_that_one_flag_takes():
    for rows in (retrieval_sets(), tryon_sets()):
        assert len(set(names(rows))) == len(rows) > 2
    assert len(DATASETS) == len(retrieval_sets()) + len(tryon_sets())


def test_a_registered_set_is_read_by_its_own_names_for_the_splits(table, tmp_path):
    register(replace(BOOTS, splits={"train": "training", "val": "held back"}))
    data = DataSettings(str(tmp_path), "boots")
    assert read_pairs(data, "val").split == "held back" and read_pairs(data, "train").split == "training"
    assert not is_composed("boots:2+fashiongen") and [*training_texts(data)] == ["a boot of training"]
    assert validation_images(data) == {tmp_path / "held back.png"}
    with pytest.raises(UserError, match="boots holds images with texts, not composed queries"):
        read_composed(data, "val")
    with pytest.raises(NoSplit, match="boots has no test split; it has train, val"):
        read_pairs(data, "test")


def test_a_registered_composed_set_mixes_with_its_kind_alone(table, tmp_path):
    register(replace(BOOTS, pairs=None, composed=read_queries))
    data = DataSettings(str(tmp_path), "boots")
    assert is_composed("boots") and read_composed(data, "val", needs_images=False)[0].captions == {"options": "False"}
    with pytest.raises(UserError, match="mixes images with texts"):
        DataSettings(dataset="boots+fashiongen")
    with pytest.raises(UserError, match="boots holds composed queries, not images with texts"):
        read_pairs(data, "train")


def test_what_a_set_holds_out_is_held_out_from_every_set_below_the_same_root(table, tmp_path):
    register(replace(BOOTS, name="other", held_out=lambda root: {root / "secret.png"}))
    register(BOOTS)
    assert validation_images(DataSettings(str(tmp_path), "boots")) == {tmp_path / "val.png", tmp_path / "secret.png"}


def test_marks_of_a_row_are_on_every_score(table, tmp_path):
    register(replace(BOOTS, score_marks=lambda root: ("leaky",)))
    assert root_marks(DataSettings(str(tmp_path), "boots")) == ("leaky",)
    assert root_marks(DataSettings(str(tmp_path), "fashiongen")) == ()


def test_sets_that_only_evaluate_or_only_train_say_so(tmp_path):
    with pytest.raises(NoSplit, match="circo is for evaluation only: train on --dataset fashioniq or cirr"):
        read_composed(DataSettings(str(tmp_path), "circo"), "train")
    with pytest.raises(
        NoSplit, match="fashioniq-cap is for training only: name a set with a validation split, such as fashiongen"
    ):
        read_pairs(DataSettings(str(tmp_path), "fashioniq-cap"), "val")
    with pytest.raises(NoSplit, match="no FashionIQ"):  # with include_val it is looked for
        read_pairs(DataSettings(str(tmp_path), "fashioniq-cap", include_val=True), "val")


def test_a_name_is_taken_once_and_by_the_other_kind_of_flag(table):
    register(BOOTS)
    with pytest.raises(ValueError, match="there is already a data set 'boots'"):
        register(BOOTS)
    register(replace(BOOTS, pairs=None, tryon=lambda *arguments: None))
    assert spec_of("boots").kind == "image-text" and spec_of("boots", tryon_sets()).kind == "try-on"


@pytest.mark.parametrize("readers", [{}, {"pairs": read_boots, "composed": read_queries}])
def test_a_row_without_a_reader_or_with_two_is_refused(readers):
    with pytest.raises(ValueError, match="exactly one of pairs, composed and tryon"):
        replace(BOOTS, **{"pairs": None, **readers})


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown data set 'cir' \(did you mean 'cirr'\?\); known: fashiongen, "):
        spec_of("cir")
    with pytest.raises(UserError, match="known: vitonhd, dresscode, catalogue"):
        spec_of("fashiongen", tryon_sets())


@pytest.mark.parametrize("dataset", ["fashiongen+catalogue", "fashiongen:0.5"])
def test_one_split_of_a_mixture_cannot_be_read(dataset):
    for read in (read_pairs, read_composed):
        with pytest.raises(UserError, match=f"--dataset {re.escape(dataset)}: a mixture can only be trained on"):
            read(DataSettings(dataset=dataset), "val")


@pytest.mark.parametrize("group", [TryOnDataSettings, TryOnInferenceSettings])
def test_the_try_on_settings_offer_the_sets_of_the_table(group):
    with pytest.raises(UserError, match=", ".join(names(tryon_sets())) + r".*did you mean 'dresscode'"):
        resolve((group,), {"dataset": "dresscod"})

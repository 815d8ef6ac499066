import logging
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unifashion.data.images import ImageError, open_image
from unifashion.encoders.embedder import Embedder
from unifashion.encoders.protocol import Encoder
from unifashion.errors import UserError
from unifashion.models.losses import best_query_scores
from unifashion.search import Hit, Retriever
from unifashion.search.build import Options, build_index
from unifashion.search.index import Index
from unifashion.search.retriever import Query
from unifashion.search.sheet import write_sheet
from unifashion.search.writer import writing

WORDS = "a red dress"


def by_hand(retriever, shop, query_D, keep=lambda number: True):
    """Ids of the shop's whole images in the order of the scores that the loss would give."""
    numbers = [number for number in range(12) if keep(number)]
    image_BQD = Embedder(retriever.model, progress=False).images([shop / f"{number}.png" for number in numbers])[0]
    scores = best_query_scores(image_BQD, query_D[None])[:, 0]
    order = scores.argsort(descending=True, stable=True).tolist()
    return [f"g{numbers[row]}" for row in order], scores[order].tolist()


@pytest.mark.parametrize("model_name", ["blip2_cir_cls", "blip2_cir_rerank"])
def test_words_find_what_the_training_score_puts_first(make_retriever, shop, model_name):
    retriever = make_retriever(model_name)
    ids, scores = by_hand(retriever, shop, Embedder(retriever.model, progress=False).texts([WORDS])[0])
    hits = retriever.search(WORDS, k=5)
    assert [hit.id for hit in hits] == ids[:5]
    assert [hit.score for hit in hits] == pytest.approx(scores[:5], abs=1e-5)
    first = next(hit for hit in retriever.search(WORDS, k=12) if hit.id == "g3")
    assert first == Hit(
        "g3",
        first.score,
        shop / "3.png",
        {"id": "g3", "category": "dress", "price": 13.5, "text": "a black dress"},
    )


def test_a_composed_query_of_phase_2_is_the_models_own(make_retriever, shop):
    retriever = make_retriever("blip2_cir_rerank")
    fused_QD = Embedder(retriever.model, progress=False).composed([shop / "2.png", shop / "7.png"], ["is longer"] * 2)
    ids, _ = by_hand(retriever, shop, fused_QD[0])
    assert [hit.id for hit in retriever.search("is longer", [shop / "2.png"], k=12)] == ids
    ids, _ = by_hand(retriever, shop, F.normalize(fused_QD.mean(dim=0), dim=0))
    assert [hit.id for hit in retriever.search("is longer", [shop / "2.png", shop / "7.png"], k=12)] == ids


def test_files_and_pillow_images_find_the_same(make_retriever, shop):
    retriever = make_retriever()
    file = shop / "4.png"
    assert retriever.search(images=[file]) == retriever.search(images=[str(file)])
    assert retriever.search(images=[file]) == retriever.search(images=[Image.open(file).convert("RGB")])
    assert retriever.search(WORDS, [file]) != retriever.search(images=[file])


def test_a_filter_leaves_the_order_and_the_scores_of_the_others(make_retriever):
    retriever = make_retriever()
    everything = retriever.search(WORDS, k=12)
    rule = "price < 19 and category == 'shirt'"
    fitting = [hit for hit in everything if hit.metadata.get("price", 99) < 19 and hit.metadata["category"] == "shirt"]
    assert retriever.search(WORDS, k=12, filter=rule) == fitting
    assert len(fitting) == 3
    assert retriever.search(WORDS, filter="price > 1000") == []


def test_reranking_orders_the_best_by_score_and_matching_logit(make_retriever):
    retriever = make_retriever()
    plain = retriever.search(WORDS, k=12)
    again = retriever.search(WORDS, k=12, rerank=6)
    assert again[6:] == plain[6:]
    logits = Embedder(retriever.model, progress=False).match(
        [WORDS], [hit.image for hit in plain[:6]], torch.tensor([[0, row] for row in range(6)])
    )
    order = sorted(range(6), key=lambda row: -(plain[row].score + float(logits[row])))
    assert again[:6] == [plain[row] for row in order]
    assert again[:6] != plain[:6]
    assert retriever.search(WORDS, k=3, rerank=6) == again[:3]


def test_the_index_knows_its_items_and_fields(make_retriever, shop):
    index = make_retriever().index
    assert len(index) == 12
    assert index.fields == {"id": "text", "category": "text", "price": "number", "text": "text"}
    assert index.get("g0").metadata["price"] == 10.5
    assert "price" not in index.get("g11").metadata
    with pytest.raises(UserError, match="no item has the id 'broken'"):
        index.get("broken")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({}, "nothing to search for"),
        ({"text": "  \n"}, "nothing to search for"),
        ({"text": "!!! ***"}, "there are no words in"),
        ({"text": "red", "k": 0}, "k must be at least 1"),
        ({"text": "red", "filter": "colour == 'red'"}, "no item has a field 'colour'"),
    ],
)
def test_a_query_that_asks_nothing_is_refused(make_retriever, query, sentence):
    with pytest.raises(UserError, match=sentence):
        make_retriever().search(**query)


def test_reranking_without_words_is_refused(make_retriever, shop):
    with pytest.raises(UserError, match="rerank compares words with images"):
        make_retriever().search(images=[shop / "1.png"], rerank=5)


def test_a_broken_reference_is_named(make_retriever, shop):
    with pytest.raises(ImageError, match="broken"):
        make_retriever().search(images=[shop / "1.png", shop / "broken.png"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_index_is_not_opened_on_a_gpu_where_there_is_none(make_retriever):
    index = make_retriever().index.folder
    with pytest.raises(UserError, match="--device cuda: there is no such device here"):
        Retriever.from_index(index, device="cuda")


def test_of_several_queries_only_the_one_with_a_broken_reference_fails(make_retriever, shop):
    retriever = make_retriever()
    sound = [Query("red"), Query(images=[shop / "1.png"]), Query("blue", images=[shop / "2.png"])]
    broken = Query("blue", images=[shop / "1.png", shop / "broken.png"])
    first, second, error, third = retriever.search_all([*sound[:2], broken, sound[2]])
    assert isinstance(error, ImageError) and error.path == shop / "broken.png"
    for answer, query in zip((first, second, third), sound, strict=True):
        assert [hit.id for hit in answer] == [hit.id for hit in retriever.search(query.text, query.images)]


@pytest.mark.parametrize("model_name", ["blip2_cir_cls", "blip2_cir_rerank"])
def test_references_are_held_in_memory_one_at_a_time(make_retriever, shop, tmp_path, monkeypatch, model_name):
    opened_ones, most = [], []

    def opened(source):
        image = open_image(source)
        opened_ones.append(weakref.ref(image))
        most.append(sum(one() is not None for one in opened_ones))
        return image

    retriever = make_retriever(model_name)
    for module in ("encoders.embedder", "search.retriever", "search.sheet"):
        monkeypatch.setattr(f"unifashion.{module}.open_image", opened)
    hits = retriever.search("is red", images=[shop / f"{number}.png" for number in range(8)])
    assert len(most) == 8 and max(most) <= 2
    write_sheet(tmp_path / "sheet.png", "is red", [shop / "1.png", shop / "2.png"], hits)
    assert len(most) == 10 + len(hits) and max(most) <= 2


def test_long_and_foreign_queries_are_read_and_what_is_lost_is_said(make_retriever, caplog):
    retriever = make_retriever()
    with caplog.at_level(logging.WARNING):
        assert len(retriever.search("a red dress " * 900, k=5)) == 5
    assert "has 2700 words; the model reads the first 50" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(retriever.search("красное платье", k=5)) == 5
        assert len(retriever.search("x" * 10_000, k=5)) == 5
    assert caplog.text.count("knows none of the words") == 2


@pytest.mark.parametrize(
    ("model_name", "with_image", "sentence"),
    [
        ("blip2_cir_cls", True, "was not trained on images with feedback"),
        ("blip2_cir_rerank", False, "was trained on images with feedback, not on words alone"),
    ],
)
def test_a_kind_of_query_that_the_model_was_not_trained_for_is_told_once(
    make_retriever, shop, caplog, model_name, with_image, sentence
):
    retriever = make_retriever(model_name)
    caplog.clear()
    for _ in range(2):
        retriever.search("is longer", [shop / "2.png"] if with_image else [])
        retriever.search(*([WORDS] if with_image else ["is longer", [shop / "2.png"]]))
    assert [record.getMessage().count(sentence) for record in caplog.records] == [1]


def test_an_index_that_changes_while_a_query_is_read_answers_as_it_was_before(make_retriever, monkeypatch):
    retriever = make_retriever()
    rule = "category == 'shirt'"
    before = retriever.search(WORDS, k=12, filter=rule)
    embed = retriever.model.embed_texts

    def meanwhile(texts):
        with writing(retriever.index) as writer:
            writer.delete(["g0", "g1", "g2"])
        retriever.index.refresh()  # as another request would do
        return embed(texts)

    with monkeypatch.context() as patch:
        patch.setattr(retriever.model, "embed_texts", meanwhile)
        assert retriever.search(WORDS, k=12, filter=rule) == before
    assert len(retriever.search(WORDS, k=12)) == 9


class Colours:
    """An encoder that is no network at all: an image is its mean colour, a text the colour that it names."""

    name, num_vectors, width, composes = "colours", 1, 3, False

    def weights_hash(self):
        return "three numbers"

    def embed_images(self, images, batch_size=32):
        means = [np.asarray(open_image(image), dtype=np.float32).mean(axis=(0, 1)) for image in images]
        return F.normalize(torch.tensor(np.array(means), dtype=torch.float32).view(-1, 1, 3), dim=-1)

    def embed_files(self, paths, batch_size=32, num_workers=0):
        broken = {path: "not an image" for path in paths if path.name == "broken.png"}
        vectors = torch.zeros(len(paths), 1, 3)
        good = [row for row, path in enumerate(paths) if path not in broken]
        vectors[good] = self.embed_images([paths[row] for row in good])
        return vectors, broken

    def embed_texts(self, texts, batch_size=32):
        colour = {"red": (1.0, 0, 0), "blue": (0, 0, 1.0), "green": (0, 1.0, 0)}
        return torch.tensor([colour[text.split()[1]] for text in texts])

    def match(self, text, images):
        raise UserError("colours only makes vectors")

    def remarks(self, text):
        return []


def test_another_kind_of_model_is_indexed_and_searched_through_the_same_door(shop, tmp_path, caplog):
    encoder: Encoder = Colours()
    result = build_index(shop, encoder, "none", tmp_path / "colours", Options("fp32", progress=False))
    assert len(result.added) == 12 and [path.name for path in result.skipped.reasons] == ["broken.png"]
    index = Index.open(tmp_path / "colours")
    assert (index.config.model_name, index.config.num_vectors, index.config.width) == ("colours", 1, 3)
    retriever = Retriever(index, encoder)
    assert [hit.id for hit in retriever.search("a blue one", k=2)] in (["g1", "g7"], ["g7", "g1"])
    assert {hit.id for hit in retriever.search(images=[shop / "0.png"], k=2)} == {"g0", "g6"}
    assert retriever.search("a blue one", k=1, filter="category = 'dress'")[0].id == "g1"
    with caplog.at_level(logging.WARNING):
        assert len(retriever.search("a red one", [shop / "1.png"], k=4)) == 4
    assert "a colours was not trained on images with feedback" in caplog.text
    with pytest.raises(UserError, match="only makes vectors"):
        retriever.search("a red one", rerank=3)
    assert build_index(shop, encoder, "none", tmp_path / "colours", Options("fp32", progress=False)).added == []

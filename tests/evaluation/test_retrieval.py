import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.feedback import prepare_text
from unifashion.data.images import normalise
from unifashion.data.own_catalogue import read_own_catalogue
from unifashion.data.splits import read_composed
from unifashion.encoders.embedder import Embedder
from unifashion.errors import UserError
from unifashion.evaluation import retrieval
from unifashion.evaluation.composed import query_text
from unifashion.evaluation.ranked_lists import NUM_SHOWN, read_ranked_lists
from unifashion.evaluation.results import results_table, update
from unifashion.evaluation.retrieval import validate, validate_checkpoint
from unifashion.evaluation.scores import as_scores, read_scores, write_scores

toy = pytest.importorskip("unifashion.apps.toy_catalogue")  # an app, which the core can do without

SIZES = toy.Sizes(
    train_products=2,
    val_products=36,
    train_families=2,
    val_families=3,
    val_distractors=3,
    train_queries=9,
    val_queries=9,
    side=32,
)
EVALUATION = EvaluationSettings(num_draws=2, num_queries=30, num_negatives=10)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.write_catalogue(tmp_path_factory.mktemp("data") / "catalogue", SIZES, progress=False)


def run(model, root, dataset, **changes):
    data = DataSettings(data_root=str(root), dataset=dataset, **changes)
    return validate(model, data, EVALUATION, "model", progress=False)[0]


def values(scores):
    return {(s.protocol, s.category, s.metric): s.value for s in scores}


def test_batch_size_changes_no_vector(make_model, root):
    model = make_model()
    paths = sorted((root / "fashionGen" / "image_val").iterdir())[:7]
    one, many = (Embedder(model, size, progress=False).images(paths)[0] for size in (1, 5))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)
    assert one.shape == (7, 4, 12)


def test_workers_change_no_vector(make_model, root):
    paths = sorted((root / "fashionGen" / "image_val").iterdir())[:5]
    here, elsewhere = (Embedder(make_model(), 2, workers, False).images(paths)[0] for workers in (0, 1))
    assert torch.equal(here, elsewhere)


def test_a_broken_gallery_image_is_counted_marked_and_named(make_model, root, tmp_path, caplog):
    copy = tmp_path / "catalogue"
    shutil.copytree(root, copy)
    victim = json.loads((copy / "fashionIQ_dataset/captions/cap.dress.val.json").read_text())[0]["target"]
    (copy / "fashionIQ_dataset/images" / f"{victim}.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"images missing: .* --max-missing"):
        run(make_model("blip2_cir_rerank"), copy, "fashioniq")
    scores = run(make_model("blip2_cir_rerank"), copy, "fashioniq", max_missing=60.0)
    assert len(scores) == 54
    assert all("incomplete" in score.marks and score.missing > 0 and "used" in score.note for score in scores)
    assert f"{victim}.jpg left out" in caplog.text


def test_a_missing_photo_is_counted_in_the_pair_protocols(make_model, root, tmp_path):
    copy = tmp_path / "catalogue"
    shutil.copytree(root, copy)
    next((copy / "fashionGen" / "image_val").iterdir()).unlink()
    scores = run(make_model(), copy, "fashiongen", max_missing=5.0)
    assert {score.protocol for score in scores} == {"fashiongen/sub100-neg10", "fashiongen/full"}
    assert all("incomplete" in score.marks for score in scores)
    with pytest.raises(UserError, match="images missing"):
        run(make_model(), copy, "fashiongen", max_missing=0.1)


def test_reranking_by_brute_force(make_model, root):
    model = make_model().eval()
    data = DataSettings(data_root=str(root), dataset="catalogue")
    again = dataclasses.replace(EVALUATION, rerank=3)
    scores = values(validate(model, data, again, "model", progress=False)[0])
    embedder = Embedder(model, 8, progress=False)
    pairs = read_own_catalogue(root, "val").pairs
    texts = list(dict.fromkeys((pair.product, pair.text) for pair in pairs))
    image = embedder.images([pair.image for pair in pairs])[0]
    text = embedder.texts([text for _, text in texts])
    hits = 0
    for query, (product, words) in enumerate(texts):
        first = (image @ text[query]).amax(1)
        best = first.topk(3).indices.tolist()
        pixels = [embedder.transform(Image.open(pairs[row].image).convert("RGB")) for row in best]
        ids, mask = model.tokenize([prepare_text(words)] * 3)
        with torch.no_grad():
            itm = model.match_logits(model.read_images(normalise(torch.stack(pixels))), ids, mask)[:, 1]
        top = best[int((itm + first[best]).argmax())]
        hits += pairs[top].product == product
    assert scores["catalogue/full+itm3", "", "t2i R@1"] == pytest.approx(100 * hits / len(texts))
    assert scores["catalogue/full", "", "t2i R@10"] >= scores["catalogue/full", "", "t2i R@1"]


def test_reranking_by_two_images_by_brute_force(make_model, root):
    model = make_model("blip2_cir_rerank").eval()
    data = DataSettings(data_root=str(root), dataset="fashioniq")
    by_two = dataclasses.replace(EVALUATION, rerank=12, rerank_by="two-image")
    scores = values(validate(model, data, by_two, "model", progress=False)[0])
    assert {protocol.rpartition("+")[2] for protocol, _, _ in scores} == {"itm2img12"}
    embedder = Embedder(model, 8, progress=False)
    for split in read_composed(data, "val"):
        names = list(dict.fromkeys(split.gallery))
        image = embedder.images([split.images[name] for name in names])[0]
        hits = 0
        for query in split.queries:
            words = query_text(split, query)
            first = (image @ embedder.composed([split.images[query.reference]], [words])[0]).amax(1)
            best = first.topk(12).indices.tolist()
            paths = [split.images[query.reference], *(split.images[names[row]] for row in best)]
            pixels = torch.stack([embedder.transform(Image.open(path).convert("RGB")) for path in paths])
            ids, mask = model.tokenize([prepare_text(words)] * 12)
            with torch.no_grad():
                # As the original: the tokens of both images one after the other, read by the cross-attention as one image.
                tokens = model.image_tokens(normalise(pixels))
                both = torch.cat([tokens[:1].expand(12, -1, -1), tokens[1:]], dim=1)
                queries = model.target_tokens.expand(12, -1, -1)
                hidden = model.qformer(queries, ids, mask, model.qformer.project_image(both))[:, : queries.shape[1]]
                matching = model.itm_head(hidden).mean(dim=1).softmax(dim=1)[:, 1]
            pairs = torch.stack([torch.zeros(12).long(), torch.arange(12)], dim=1)
            torch.testing.assert_close(
                embedder.match([words], paths[1:], pairs, paths[:1]), matching, rtol=0, atol=1e-5
            )
            hits += query.target in [names[best[row]] for row in (matching + first[best]).topk(10).indices]
        recall = scores["fashioniq/original+itm2img12", split.category, "R@10"]
        assert recall == pytest.approx(100 * hits / len(split.queries))


def test_reranking_by_two_images_without_effect_is_one_sentence(make_model, root):
    with pytest.raises(UserError, match=r"two-image re-ranks nothing without --rerank; say how many"):
        EvaluationSettings(rerank_by="two-image")
    data = DataSettings(data_root=str(root), dataset="catalogue")
    with pytest.raises(UserError, match=r"two-image has no effect on catalogue: no query has a reference image"):
        validate(make_model(), data, EvaluationSettings(rerank=3, rerank_by="two-image"), progress=False)


def test_answers_and_examples_are_kept_when_asked(make_model, root, tmp_path):
    for name, dataset in (("blip2_cir_cls", "fashiongen"), ("blip2_cir_rerank", "fashioniq")):
        data = DataSettings(data_root=str(root), dataset=dataset)
        validate(make_model(name), data, EVALUATION, "m", progress=False, output=tmp_path / dataset)
        assert Image.open(tmp_path / dataset / "examples.png").size[0] > 700
        answers = read_ranked_lists(tmp_path / dataset)
        assert {len(answer.top) for answer in answers} == {NUM_SHOWN}
        hits = [any(item.hit for item in answer.top) for answer in answers]
        assert hits == [answer.rank < NUM_SHOWN for answer in answers] and True in hits and False in hits


def test_a_second_validation_of_a_run_is_refused_and_changes_nothing(make_model, root, tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path / "model")
    call = (str(tmp_path / "model"), "blip2_cir_cls", None, DataSettings(data_root=str(root), dataset="fashiongen"))
    real, found = retrieval.validate, []

    def meanwhile(*given, **more):
        monkeypatch.setattr(retrieval, "validate", real)
        with pytest.raises(UserError, match=r"validate/fashiongen: another call is at work in it; wait until it ends"):
            validate_checkpoint(*call, EVALUATION)
        found.append(list((tmp_path / "model" / "validate" / "fashiongen").iterdir()))
        return real(*given, **more)

    monkeypatch.setattr(retrieval, "validate", meanwhile)
    scores, folder = validate_checkpoint(*call, EVALUATION)
    assert found == [[]] and read_scores(folder) == scores


def test_results_are_written_between_the_markers_from_run_files(make_model, root, tmp_path):
    scores = run(make_model(), root, "fashiongen")
    folder = tmp_path / "run"
    write_scores(folder / "validate" / "fashiongen", scores)
    about = {
        "started": "2026-01-02T03:04:05Z",
        "machine": "2 cores",
        "git": "abc",
        "seconds": 60,
        "data": {"used": "all"},
    }
    (folder / "run.json").write_text(json.dumps(about))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    update(readme, [folder])
    text = readme.read_text()
    assert "fashiongen/sub100" in text and "synthetic" in text and "2026-01-02, 2 cores, 1.0 minutes" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    with pytest.raises(UserError, match=r"no readable run\.json"):
        results_table([tmp_path / "absent"])


def test_two_scores_of_one_run_share_their_facts(make_model, root):
    scores = run(make_model(), root, "fashiongen")
    assert len(scores) == 3 * 7
    for score in scores:
        assert score.marks == ("synthetic",) and score.n > 0 and score.model == "model" and score.missing == 0
    assert as_scores([], dataset="d", split="val", model="m") == []

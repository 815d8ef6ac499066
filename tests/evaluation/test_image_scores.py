"""Picture scores: SSIM, LPIPS, FID, KID, CLIP-S against formulas written out here, and what the profiles make of them."""

import itertools
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.functional.image import lpips as reference
from transformers import CLIPConfig, CLIPModel

from unifashion.data.images import load_image
from unifashion.errors import UserError
from unifashion.evaluation import image_networks
from unifashion.evaluation.image_distances import clean_pixels, frechet_distance, kernel_distance
from unifashion.evaluation.image_inputs import PROFILES, Result, painted_box
from unifashion.evaluation.image_networks import (
    NETWORKS,
    ClipScorer,
    Inception,
    Lpips,
    WeightFile,
    layer_weights,
    open_clip_scorer,
    open_lpips,
)
from unifashion.evaluation.images import Networks, open_networks, score_images
from unifashion.evaluation.metrics import PICTURES, metric_row, ssim
from unifashion.models.tokenizer import train_wordpiece

SSIM, LPIPS, FID, KID, CLIP_S = [row.name for row in PICTURES]


def photo(seed, width=36, height=48):
    """Smooth random colours: neighbouring pixels are alike, as in photos."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def features_of(seed, number=40, width=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((number, width)) @ rng.standard_normal((width, width)) + rng.standard_normal(width)


# SSIM -----------------------------------------------------------------------------------------------------------------


def ssim_by_hand(first, second):
    """Every window of 11 x 11 inside the picture, one by one, in double precision (values 0..255)."""
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for row in range(first.shape[0] - 10):
        for column in range(first.shape[1] - 10):
            a, b = (image[row : row + 11, column : column + 11] for image in (first, second))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
            both = (window * a * b).sum() - mean_a * mean_b
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            found.append(
                (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


def test_grey_ssim_is_the_mean_over_all_whole_windows():
    images = [np.asarray(photo(seed).convert("L"), dtype=np.float64) for seed in (1, 2)]
    tensors = [torch.from_numpy(image / 255).float()[None, None] for image in images]
    assert float(ssim(*tensors, inner=True)) == pytest.approx(ssim_by_hand(*images), abs=2e-5)


def test_grey_ssim_is_computed_in_double_precision_as_scikit_image_does(tmp_path):
    """Nearly flat pictures, where single precision is off by more than 1e-6."""
    rng = np.random.default_rng(0)
    for name in ("result", "truth"):
        grey = 250 + rng.integers(0, 2, (24, 20), dtype=np.uint8)
        Image.fromarray(grey).convert("RGB").save(tmp_path / f"{name}.png")
    files = tmp_path / "result.png", tmp_path / "truth.png"
    expected = ssim_by_hand(*(np.asarray(Image.open(file).convert("L"), dtype=np.float64) for file in files))
    found = scored([Result(*files)] * 2, "hrviton", networks=Networks())[SSIM].value
    assert found == pytest.approx(expected, abs=1e-7)
    tensors = [torch.from_numpy(np.asarray(Image.open(file).convert("L")) / 255).float()[None, None] for file in files]
    assert abs(float(ssim(*tensors, inner=True)) - expected) > 1e-6, (
        "these pictures could not tell the precisions apart"
    )


def test_ssim_is_one_for_equals_symmetric_and_falls_with_noise():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 24, 20)
    noise = torch.randn_like(image)
    values = [ssim(image, (image + strength * noise).clamp(0, 1)) for strength in (0, 0.05, 0.2, 0.6)]
    torch.testing.assert_close(values[0], torch.ones(2))
    assert all((a > b).all() for a, b in itertools.pairwise(values))
    other = image.flip(3)
    torch.testing.assert_close(ssim(image, other), ssim(other, image))


# FID and KID ----------------------------------------------------------------------------------------------------------


def test_the_frechet_distance_is_that_of_two_normal_distributions():
    a, b = features_of(1), features_of(2, number=55)
    mean_a, mean_b, cov_a, cov_b = a.mean(0), b.mean(0), np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root_a = vectors * np.sqrt(values) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a)).sum()
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_a_moved_and_stretched_set_has_a_closed_form():
    a = torch.from_numpy(features_of(3))
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 0.0]).double()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a + shift, a) == pytest.approx(float(shift.square().sum()), rel=1e-5)
    stretched = 2 * (a - a.mean(0)) + a.mean(0)  # covariance 4 C: trace(C + 4 C - 2 * 2 C) = trace(C)
    assert frechet_distance(stretched, a) == pytest.approx(float(torch.cov(a.T).trace()), rel=1e-5)


def kid_by_hand(x, y):
    """The unbiased estimate over all pairs, kernel ((x . y) / F + 1)^3."""
    kernel = lambda a, b: (a @ b / len(a) + 1) ** 3  # noqa: E731
    within = [
        sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def test_the_kernel_distance_is_the_unbiased_estimate():
    a, b = features_of(1, number=12), features_of(2, number=12)
    mean, std = kernel_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert mean == pytest.approx(kid_by_hand(a, b), rel=1e-6)
    assert std is None, "every subset is the whole set"
    assert kernel_distance(torch.from_numpy(a), torch.from_numpy(features_of(3, number=13)))[1] > 0


def test_the_kernel_distance_draws_its_subsets_from_its_own_seed(monkeypatch):
    monkeypatch.setattr("unifashion.evaluation.image_distances.MAX_SUBSET", 10)
    a, b = torch.from_numpy(features_of(1)), torch.from_numpy(features_of(1, number=60) + 0.5)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = kernel_distance(a, b, 0), kernel_distance(a, b, 0), kernel_distance(a, b, 1)
    assert torch.equal(torch.rand(1), expected), "the caller's randomness is left alone"
    assert first == again != other
    assert first[1] > 0
    assert first[0] == pytest.approx(kid_by_hand(a.numpy(), b.numpy()), abs=4 * first[1] / math.sqrt(10))


def test_pixels_for_inception_are_resized_channel_by_channel_clipped_and_not_rounded():
    image = photo(4, 60, 80)
    array = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(array, (31, 31), mode="bicubic", antialias=True)[0].clamp(0, 255)
    torch.testing.assert_close(clean_pixels(image, 31), expected, atol=0.02, rtol=0)
    edge = Image.fromarray(np.repeat(np.array([[0, 0, 255, 255]], np.uint8), 4, axis=0)).convert("RGB")
    enlarged = clean_pixels(edge, 32)
    assert (enlarged.min(), enlarged.max()) == (0, 255), "bicubic overshoots at the edge"
    assert not torch.equal(enlarged, enlarged.round())
    assert clean_pixels(edge).shape == (3, 299, 299)


# LPIPS ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["alex", "squeeze"])
def test_lpips_and_its_networks_are_those_of_torchmetrics(backbone, monkeypatch):
    """torchmetrics builds its slices from torchvision's layers; here it is given ours, with the same random weights."""
    torch.manual_seed(0)
    build, taps = NETWORKS[backbone]
    layers = build()
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: layers)
    theirs = reference._LPIPS(net=backbone, use_dropout=True)
    ours = Lpips(layers, taps, layer_weights(backbone))
    a, b = torch.rand(2, 2, 3, 70, 66) * 2 - 1
    torch.testing.assert_close(ours(a, b), theirs(a, b).flatten())
    assert (ours(a, b) > 0).all()
    torch.testing.assert_close(ours(a, a), torch.zeros(2))


def test_lpips_is_the_weighted_squared_difference_of_unit_vectors():
    layer = nn.Conv2d(3, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None])
    metric = Lpips(nn.Sequential(layer), [0], [torch.tensor([0.5, 2.0])])
    # The first picture's features point to (1, 0), the second's to (0, 1) everywhere: 0.5 * 1 + 2 * 1.
    shift, scale = metric.shift, metric.scale
    a, b = (torch.tensor(v).view(1, 3, 1, 1) * scale + shift for v in ([3.0, 0, 0], [0, 7.0, 0]))
    assert float(metric(a.expand(1, 3, 4, 5), b.expand(1, 3, 4, 5))) == pytest.approx(2.5, rel=1e-5)


# CLIP-S ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    tokenizer = train_wordpiece(["a red striped shirt", "a blue dress"])
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ids = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    heads = {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**text, **ids, **heads, "max_position_embeddings": 16},
        vision_config={**vision, **heads},
        projection_dim=8,
    )
    return ClipScorer(CLIPModel(config), tokenizer)


def test_clip_s_of_a_picture_is_a_hundred_times_the_cosine(clip):
    torch.manual_seed(1)
    images, texts = torch.rand(6, 3, 32, 32), ["a red shirt", "a blue dress", "striped", "a", "red red red", "dress"]
    found = clip(images, texts)
    expected = []
    for image, text in zip(images, texts, strict=True):
        words = clip.tokenizer([text], return_tensors="pt")
        pixels = ((image - clip.mean[0]) / clip.std[0])[None]
        with torch.no_grad():
            one = clip.model(input_ids=words["input_ids"], pixel_values=pixels)
        a, b = one.image_embeds[0].double(), one.text_embeds[0].double()
        expected.append(100 * float(a @ b / (a.norm() * b.norm())))
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    assert min(expected) < 0 < max(expected), "both cases occur"


@pytest.mark.parametrize(("cosines", "expected"), [((30, -10, 20, 0, 10), 10), ((-30, -10, 20, 0, 10), 0)])
def test_clip_s_of_a_set_is_the_mean_which_alone_is_not_below_zero(drawn, cosines, expected):
    class Given(nn.Module):
        side = 32

        def forward(self, images, texts):
            return torch.tensor(cosines, dtype=torch.float32)

    found = scored(drawn, "mgd", "unpaired", Networks({CLIP_S: Given()}))
    assert found[CLIP_S].value == pytest.approx(expected)


def test_a_clip_folder_is_opened_and_scores_alike(clip, tmp_path):
    place = tmp_path / image_networks.CLIP.name
    clip.model.save_pretrained(place)
    clip.tokenizer.save_pretrained(place)
    torch.manual_seed(1)
    images, texts = torch.rand(2, 3, 32, 32), ["a red shirt", "a blue dress"]
    torch.testing.assert_close(open_clip_scorer(tmp_path)(images, texts), clip(images, texts))
    (place / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read .* fetch it again from"):
        open_clip_scorer(tmp_path)


def test_clip_s_sees_the_painted_box_in_the_middle_of_a_white_square(tmp_path):
    picture = Image.new("RGB", (40, 60), (0, 0, 255))
    picture.paste((255, 0, 0), (10, 20, 30, 50))
    mask = Image.new("L", (80, 120))  # of another size than the result
    mask.paste(255, (20, 40, 60, 100))
    picture.save(tmp_path / "p.png")
    mask.save(tmp_path / "m.png")
    box = painted_box(Result(tmp_path / "p.png", tmp_path / "p.png", tmp_path / "m.png", "red"), 60)
    assert box.size == (60, 60)
    red = np.asarray(box)[..., 2] < 128
    assert red.any(axis=0).nonzero()[0].tolist() == list(range(10, 50)), "20 x 30 pixels become 40 x 60"
    assert red.any(axis=1).all()
    assert box.getpixel((0, 0)) == (255, 255, 255)


# Profiles -------------------------------------------------------------------------------------------------------------


class Colours(nn.Module):
    """A feature network that can be followed by hand: mean and deviation of each channel."""

    num_features = 6

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


def small_networks(clip=None):
    torch.manual_seed(0)
    build, taps = NETWORKS["squeeze"]
    colours = Colours()
    opened = {LPIPS: Lpips(build(), taps, layer_weights("squeeze")), FID: colours, KID: colours}
    return Networks(opened | ({CLIP_S: clip} if clip else {}), {FID: "colours", KID: "colours"})


@pytest.fixture
def drawn(tmp_path):
    """Five results with their truths: the first is the truth itself, the others are ever more another picture."""
    found = []
    for number in range(5):
        truth, other = photo(number), photo(number + 50)
        place = [tmp_path / f"{kind}{number}.png" for kind in ("truth", "result", "mask")]
        truth.save(place[0])
        Image.blend(truth, other, number / 4).save(place[1])
        mask = Image.new("L", truth.size)
        mask.paste(255, (8, 8, 28, 40))
        mask.save(place[2])
        found.append(Result(place[1], place[0], place[2], "a red shirt"))
    return found


def scored(results, profile, pairing="paired", networks=None, **others):
    metrics = score_images(results, PROFILES[profile], pairing, networks or small_networks(), progress=False, **others)
    return {metric.name: metric for metric in metrics}


def test_a_paired_profile_has_all_its_numbers_with_their_names(drawn):
    found = scored(drawn, "catvton")
    assert list(found) == [SSIM, LPIPS, FID, KID]
    assert found[SSIM].protocol == "tryon/catvton/paired"
    assert found[FID].protocol == "tryon/catvton/paired+colours", "another network than the profile's is named"
    assert (found[SSIM].n, found[SSIM].gallery) == (5, None)
    assert found[SSIM].low < found[SSIM].value < found[SSIM].high < 1
    assert "biased" in found[FID].note
    pictures = [
        [torch.from_numpy(np.asarray(load_image(path)) / 255).float() for path in (r.picture, r.truth)] for r in drawn
    ]
    pairs = [[image.permute(2, 0, 1)[None] for image in pair] for pair in pictures]
    assert found[SSIM].value == pytest.approx(np.mean([float(ssim(*pair)) for pair in pairs]), abs=1e-6)
    lpips = small_networks().opened[LPIPS]
    assert found[LPIPS].value == pytest.approx(
        np.mean([float(lpips(2 * a - 1, 2 * b - 1)) for a, b in pairs]), rel=1e-5
    )
    sets = [torch.stack([clean_pixels(load_image(path)) for path in paths]) for paths in
            ([r.picture for r in drawn], [r.truth for r in drawn])]  # fmt: skip
    features = [Colours()(pixels) for pixels in sets]
    assert found[FID].value == pytest.approx(frechet_distance(*features), rel=1e-6)
    assert found[KID].value == pytest.approx(1000 * kernel_distance(*features)[0], rel=1e-6)


def test_the_truth_itself_is_perfect(drawn):
    perfect = [Result(r.truth, r.truth) for r in drawn]
    found = scored(perfect, "catvton")
    assert found[SSIM].value == pytest.approx(1, abs=1e-6)
    assert found[LPIPS].value == pytest.approx(0, abs=1e-6)
    assert found[FID].value == pytest.approx(0, abs=1e-3)
    assert found[KID].value <= 1e-6


def test_unpaired_results_have_no_truth_to_compare_with(drawn):
    found = scored(drawn, "catvton", "unpaired")
    assert list(found) == [FID, KID]
    assert found[KID].protocol == "tryon/catvton/unpaired+colours"


def test_repainting_and_lossy_files_are_named(drawn, tmp_path):
    lossy = tmp_path / "0.jpeg"
    load_image(drawn[0].picture).save(lossy)
    found = scored([Result(lossy, drawn[0].truth), *drawn[1:]], "hrviton", repaint=True)
    assert found[SSIM].protocol == "tryon/hrviton/paired+repaint+jpg"
    assert list(found) == [SSIM, LPIPS]


def test_a_larger_truth_is_brought_to_the_result_as_each_profile_does(tmp_path):
    truth, small = photo(1, 72, 96), tmp_path / "small.png"
    truth.save(tmp_path / "truth.png")
    truth.resize((36, 48), Image.Resampling.LANCZOS).save(small)
    result = [Result(small, tmp_path / "truth.png")] * 2
    only_ssim = Networks()
    assert scored(result, "catvton", networks=only_ssim)[SSIM].value == pytest.approx(1, abs=1e-6)
    assert scored(result, "hrviton", networks=only_ssim)[SSIM].value < 0.9999, "bilinear, not Lanczos"
    assert scored(result, "catvton-lossless", networks=only_ssim)[SSIM].protocol == "tryon/catvton-lossless/paired"
    seen = []

    class Watched(nn.Module):
        def forward(self, a, b):
            seen.append(a.shape)
            return torch.zeros(1)

    networks = Networks({LPIPS: Watched()})
    scored(result, "ladi", networks=networks)
    scored(result, "hrviton", networks=networks)
    assert [tuple(shape[-2:]) for shape in seen] == [(512, 384)] * 2 + [(128, 128)] * 2


def test_catvton_compresses_a_resized_jpeg_photo_anew_and_its_lossless_twin_does_not(tmp_path):
    """CatVTON's script saves the resized photo under its own name, with Pillow's defaults, and compares with that file."""
    resized, compressed, lossless = [], [], []
    for number in range(2):
        whole, small, again, png = (
            tmp_path / f"{number}{name}" for name in ("whole.jpg", "small.png", "again.jpg", "whole.png")
        )
        photo(number, 72, 96).save(whole, "JPEG", quality=95)
        picture = load_image(whole).resize((36, 48), Image.Resampling.LANCZOS)
        picture.save(small, "PNG")
        picture.save(again, "JPEG")
        load_image(whole).save(png, "PNG")
        for rows, truth in ((resized, whole), (compressed, again), (lossless, png)):
            rows.append(Result(small, truth))
    found, twin = scored(resized, "catvton"), scored(resized, "catvton-lossless")
    by_hand = scored(compressed, "catvton")  # photos of the results' size, which are neither resized nor compressed
    for metric in (SSIM, LPIPS, FID, KID):
        assert found[metric].value == pytest.approx(by_hand[metric].value, abs=1e-6), metric
    assert twin[SSIM].value == pytest.approx(1, abs=1e-6)
    assert found[SSIM].value < 0.9999
    assert twin[FID].value < 1e-3 < found[FID].value
    assert scored(lossless, "catvton")[SSIM].value == pytest.approx(1, abs=1e-6), "a PNG is written as it is"


def test_design_has_fid_kid_and_clip_s_of_its_own_protocol(drawn, clip):
    drawn = [replace(result, text="striped") for result in drawn]
    found = scored(drawn, "mgd", "unpaired", small_networks(clip))
    assert list(found) == [FID, KID, CLIP_S]
    assert found[CLIP_S].protocol == "design/mgd/unpaired"
    boxes = torch.stack(
        [torch.from_numpy(np.asarray(painted_box(r, 32)) / 255).float().permute(2, 0, 1) for r in drawn]
    )
    expected = float(clip(boxes, [r.text for r in drawn]).mean())
    assert found[CLIP_S].value == pytest.approx(expected, abs=1e-4)
    assert expected > 0, "otherwise the clamp hides what was measured"


BAD = {
    "no results": (lambda r: [], "there are no results"),
    "one result": (lambda r: r[:1], "at least two results"),
    "another shape": (lambda r: [Result(r[0].picture, r[0].truth.parent / "wide.png"), *r[1:]], "not the shape of"),
    "no mask": (lambda r: [Result(r[0].picture, r[0].truth, None, "red"), *r[1:]], "there is no agnostic mask"),
    "no words": (lambda r: [Result(r[0].picture, r[0].truth, r[0].mask, " "), *r[1:]], "there is no caption"),
    "an empty mask": (lambda r: [Result(r[0].picture, r[0].truth, r[0].truth.parent / "black.png", "a")], "nothing .* white"),
    "a damaged file": (lambda r: [Result(r[0].truth.parent / "text.png", r[0].truth), *r[1:]], "text.png: not an image"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_results_that_cannot_be_scored_are_one_sentence(drawn, clip, tmp_path, what):
    photo(1, 60, 48).save(tmp_path / "wide.png")
    Image.new("L", (36, 48)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    change, sentence = BAD[what]
    of_words = "mask" in what or "words" in what
    networks = Networks({CLIP_S: clip}) if of_words else small_networks()
    with pytest.raises(UserError, match=sentence):
        scored(change(drawn), "mgd" if of_words else "catvton", networks=networks)


# Weight files ---------------------------------------------------------------------------------------------------------


def test_what_is_not_here_is_one_sentence_each_that_says_where_to_get_it(tmp_path):
    networks, lacking = open_networks(PROFILES["catvton"], "paired", tmp_path)
    assert [networks.can(metric_row(name)) for name in (SSIM, LPIPS, FID, KID)] == [True, False, False, False]
    assert len(lacking) == 2
    assert "squeezenet1_1-b8a52dc0.pth: fetch it from https://" in lacking[0]
    assert f"put it into {tmp_path}" in lacking[1]
    assert len(open_networks(PROFILES["catvton"], "unpaired", tmp_path)[1]) == 1
    assert "CLIP-ViT-H-14" in open_networks(PROFILES["mgd"], "unpaired", tmp_path)[1][1]


def test_a_cut_download_is_noticed_by_its_checksum(tmp_path):
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"half of it")
    with pytest.raises(UserError, match="its checksum differs"):
        open_lpips("alex", tmp_path)


def test_a_network_file_is_read_as_weights_and_must_fit(tmp_path, monkeypatch):
    layers = NETWORKS["alex"][0]()
    file = WeightFile("alex.bin", "https://example.org", "LPIPS (alex)")
    monkeypatch.setitem(image_networks.BACKBONES, "alex", file)
    torch.save(
        {f"features.{name}": value for name, value in layers.state_dict().items()}
        | {"classifier.1.bias": torch.ones(2)},
        tmp_path / file.name,
    )
    opened = open_lpips("alex", tmp_path)
    assert torch.equal(opened.features[0].weight, layers[0].weight)
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / file.name)
    with pytest.raises(UserError, match="damaged or holds another network"):
        open_lpips("alex", tmp_path)


def test_inception_is_run_as_clean_fid_runs_it(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Conv2d(3, 4, 299)

    torch.manual_seed(0)
    net = Net()
    path = tmp_path / "inception.pt"
    torch.jit.script(nn.Sequential()).save(str(tmp_path / "other.pt"))
    torch.jit.script(_Scripted(net.layers)).save(str(path))
    x = torch.rand(2, 3, 299, 299) * 255
    with torch.no_grad():
        torch.testing.assert_close(Inception(path)(x), net.layers((x - 128) / 128).flatten(1))
    for name in ("other.pt", "none.pt"):
        shutil.copy(path, tmp_path / "none.pt")
        (tmp_path / "none.pt").write_bytes(path.read_bytes()[:200])
        with pytest.raises(UserError, match="damaged or holds another network"):
            Inception(tmp_path / name)


class _Scripted(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(x)

import itertools

import pytest
import torch

from unifashion.errors import UserError
from unifashion.models.generation import Decoding, generate, to_caption
from unifashion.models.tokenizer import train_wordpiece

END = 3  # [SEP] of the toy tokenizer


@pytest.fixture
def model(make_model):
    """A toy model whose next word depends on image and text: all weights are large."""
    model = make_model().eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if not name.startswith("vision") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.35, generator=generator)
    assert model.tokenizer.sep_token_id == END
    return model


@pytest.fixture
def memory(model):
    return model.read_images(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def log_probability(model, memory, row, ids, banned_ids=()):
    """Of a caption that starts with [DEC], by whole passes without any cache."""
    ids = torch.tensor([[model.config.dec_token_id, *ids]])
    logits = model.caption_pass(memory.rows(torch.tensor([row])), ids, torch.ones_like(ids))[1]
    scores = logits.log_softmax(dim=-1)[0, :-1]
    return scores.gather(1, ids[0, 1:, None]).sum().item()


def test_greedy_words_are_the_likeliest_of_whole_passes_without_a_cache(model, memory):
    found = generate(model, memory, END, Decoding(max_new_tokens=12))
    assert len({tuple(ids) for ids in found}) > 1, "every image gets the same caption: nothing is tested"
    for row, ids in enumerate(found):
        said = [model.config.dec_token_id]
        for _ in range(12):
            text = torch.tensor([said])
            logits = model.caption_pass(memory.rows(torch.tensor([row])), text, torch.ones_like(text))[1]
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == END:
                break
        assert ids == [token for token in said[1:] if token != END]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(model, memory, length_penalty):
    words, longest = [4, 9, 14, 20], 3
    forbidden = [token for token in range(len(model.tokenizer)) if token not in (*words, END)]
    decoding = Decoding(max_new_tokens=longest, num_beams=64, length_penalty=length_penalty)
    found = generate(model, memory, END, decoding, forbidden)
    for row in range(3):
        best = {}
        for length in range(longest + 1):
            for ids in itertools.product(words, repeat=length):
                said = [*ids, END] if length < longest else list(ids)
                best[ids] = log_probability(model, memory, row, said) / len(said) ** length_penalty
        for ids in itertools.product(words, repeat=longest - 1):  # also ended at the limit by [SEP] itself
            best[ids] = log_probability(model, memory, row, [*ids, END]) / longest**length_penalty
        assert tuple(found[row]) == max(best, key=best.get)


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(num_beams=3), Decoding(num_beams=5, length_penalty=0.5)])
def test_a_batch_gives_what_each_image_gives_alone(model, memory, decoding):
    together = generate(model, memory, END, decoding)
    assert together == [generate(model, memory.rows(torch.tensor([row])), END, decoding)[0] for row in range(3)]


def test_one_beam_is_greedy_and_more_beams_are_at_least_as_likely(model, memory):
    greedy = generate(model, memory, END, Decoding(max_new_tokens=6))
    beams = generate(model, memory, END, Decoding(max_new_tokens=6, num_beams=8, length_penalty=0.0))
    for row in range(3):
        score = {
            name: log_probability(model, memory, row, ids if len(ids) == 6 else [*ids, END])
            for name, ids in (("greedy", greedy[row]), ("beams", beams[row]))
        }
        assert score["beams"] >= score["greedy"] - 1e-4


def test_sampling_follows_the_seed_and_stays_inside_the_nucleus(model, memory):
    draw = Decoding(max_new_tokens=8, sample=True, top_p=0.95)
    first, second = (generate(model, memory, END, draw, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    others = [generate(model, memory, END, draw, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert first == second and any(other != first for other in others)
    narrow = Decoding(max_new_tokens=8, sample=True, top_p=1e-6)
    assert generate(model, memory, END, narrow) == generate(model, memory, END, Decoding(max_new_tokens=8))


def test_limits_and_forbidden_words_are_kept(model, memory):
    for decoding in (
        Decoding(max_new_tokens=5, min_new_tokens=5),
        Decoding(max_new_tokens=5, min_new_tokens=5, num_beams=2),
    ):
        found = generate(model, memory, END, decoding, banned_ids=[0, 1, 2])
        assert [len(ids) for ids in found] == [5, 5, 5] and not {0, 1, 2, END} & set().union(*found)
    endless = generate(model, memory, END, Decoding(max_new_tokens=10_000, min_new_tokens=10_000))
    assert [len(ids) for ids in endless] == [model.config.qformer.max_positions - 1] * 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_beams": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"top_p": 0.0}, "--top-p"),
        ({"top_p": 1.5}, "--top-p"),
        ({"sample": True, "num_beams": 2}, "cannot be combined"),
    ],
)
def test_impossible_decoding_is_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Decoding(**options)


def test_captions_read_as_people_write_them():
    tokenizer = train_wordpiece(["a knee-length dress, with a v-neck and black/white dots"])
    ids = tokenizer("A knee-length dress, with a v-neck and black/white dots").input_ids
    assert to_caption(tokenizer, ids) == "a knee-length dress, with a v-neck and black/white dots"

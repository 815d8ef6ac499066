"""What training starts from and inference opens: Stable Diffusion and StableVITON, at toy size but of the real classes."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unifashion.cli import main
from unifashion.errors import UserError
from unifashion.evaluation.tryon_validation import validate_tryon
from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.loading import load_pipeline, save_pipeline, start_pipeline
from unifashion.tryon.maps import load_maps
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.stableviton import to_ldm

LETTERS = "abcdefghijklmnopqrstuvwxyz,-"


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A folder as Stable Diffusion 1.x has it in diffusers form; eight heads, four levels, 32 channels."""
    folder = tmp_path_factory.mktemp("sd")
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **kinds).save_pretrained(folder / "vae")
    unet = UNet2DConditionModel(block_out_channels=(32, 32, 32, 32), cross_attention_dim=16, attention_head_dim=8)
    unet.save_pretrained(folder / "unet")
    return folder


def test_stable_diffusion_starts_a_training_and_its_result_is_opened_again(stable_diffusion, tmp_path):
    pipe = start_pipeline(str(stable_diffusion), None, control="sketch", image_size=(32, 24), adapter_width=None)
    assert pipe.vae_scale == 2
    assert not pipe.denoiser.unet.conv_in.weight[:, 4:].any()
    assert pipe.scheduler.config.skip_prk_steps
    save_pipeline(pipe, tmp_path / "last")
    again = load_pipeline(tmp_path)
    assert isinstance(again, TryOnPipeline)
    assert (again.denoiser.config.control, tuple(again.denoiser.config.image_size)) == ("sketch", (32, 24))


def test_a_stableviton_file_draws_with_the_words_of_a_base(stable_diffusion, tryon_root, tmp_path):
    from unifashion.data.tryon import read_vitonhd

    torch.manual_seed(1)
    denoiser = TryOnDenoiser((32, 32, 32, 32), cross_attention_dim=16, image_size=(32, 24))
    torch.save({"state_dict": to_ldm(denoiser)}, tmp_path / "viton.ckpt")
    pipe = load_pipeline(tmp_path / "viton.ckpt", str(stable_diffusion))
    pipe.denoiser.register_to_config(image_size=(32, 24))
    pipe.set_progress_bar_config(disable=True)
    (item, *_) = read_vitonhd(tryon_root, "test", ("image", "agnostic", "agnostic_mask", "densepose", "garment")).items
    maps = load_maps(item, ("image", "agnostic", "densepose", "keep", "garment"), 32, 24)
    found = validate_tryon(pipe, [(item, maps)], steps=2)
    assert found.pictures.shape == (1, 3, 32, 24)
    assert torch.isfinite(found.pictures).all()
    assert torch.equal(pipe.denoiser.unconditional, denoiser.unconditional)


def test_a_stableviton_file_is_converted_once_and_says_what_it_reads(stable_diffusion, tmp_path, capsys):
    torch.manual_seed(1)
    denoiser = TryOnDenoiser((32, 32, 32, 32), cross_attention_dim=16)
    file, out = tmp_path / "viton.ckpt", tmp_path / "out"
    torch.save({"state_dict": to_ldm(denoiser)}, file)
    flags = ["convert", str(file), str(out), "--base", str(stable_diffusion), "--control", "sketch"]
    main(flags)
    pipe = load_pipeline(out)
    assert pipe.denoiser.config.control == "sketch"
    assert torch.equal(pipe.denoiser.unet.conv_in.weight, denoiser.unet.conv_in.weight)
    assert load_pipeline(file, str(stable_diffusion)).denoiser.config.control == "garment"
    with pytest.raises(UserError, match="trained with --control sketch; leave --control out"):
        load_pipeline(out, control="garment")
    for again, sentence in (
        (flags, "exists; give another name"),
        (flags[:3], "exists"),
        ([*flags[:2], str(tmp_path / "b")], "--base"),
    ):
        with pytest.raises(SystemExit) as left:
            main(again)
        error = capsys.readouterr().err
        assert left.value.code == 2 and sentence in error and "Traceback" not in error
    assert not (tmp_path / "b").exists()


def test_the_memory_options_of_the_library_change_no_picture(stable_diffusion):
    pipe = start_pipeline(str(stable_diffusion), None, control="garment", image_size=(32, 24), adapter_width=None)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    image, mask = torch.rand(2, 3, 32, 24) * 2 - 1, torch.ones(2, 1, 32, 24)

    def draw():
        seeds = pipe.seeded([0, 1])
        return pipe(image, image, mask, image, num_inference_steps=2, generator=seeds, output_type="pt").images

    plain = draw()
    pipe.vae.enable_slicing()
    torch.testing.assert_close(draw(), plain, atol=1e-4, rtol=0)
    pipe.vae.enable_tiling()
    assert draw().shape == plain.shape


@pytest.mark.parametrize(
    ("width", "sentence"),
    [(7, "has no adapter, --retriever and --adapter ask for a linear adapter for rows of width 7")],
)
def test_an_adapter_cannot_be_added_to_a_trained_model(stable_diffusion, tmp_path, width, sentence):
    save_pipeline(
        start_pipeline(str(stable_diffusion), None, control="garment", image_size=(32, 24)), tmp_path / "last"
    )
    with pytest.raises(UserError, match=sentence):
        start_pipeline(str(tmp_path), None, adapter_width=width)


def test_a_stableviton_file_without_a_base_says_what_it_needs(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "viton.ckpt")
    with pytest.raises(UserError, match="with --base"):
        load_pipeline(tmp_path / "viton.ckpt")


def test_a_model_that_names_the_toy_vae_where_it_used_to_be_opens(pipe, tmp_path):
    save_pipeline(pipe, tmp_path / "old")
    index = tmp_path / "old" / "model_index.json"
    index.write_text(index.read_text().replace("unifashion.models.blocks_vae", "unifashion.tryon.blocks_vae"))
    assert "unifashion.tryon.blocks_vae" in index.read_text()
    assert torch.equal(load_pipeline(tmp_path / "old").vae.mean, pipe.vae.mean)


def test_a_retrieval_run_with_a_try_on_run_in_it_is_one_folder(pipe, tmp_path):
    save_pipeline(pipe, tmp_path / "run" / "tryon" / "last")
    assert torch.equal(load_pipeline(tmp_path / "run").vae.mean, pipe.vae.mean)

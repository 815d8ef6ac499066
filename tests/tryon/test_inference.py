"""The folder of try-on results: continued after a kill, never mixed, filled by one call at a time."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kill
from small_disk import filled
from unifashion.apps.prepare.tryon import prepare_tryon
from unifashion.data.tryon import TryOnItem, read_vitonhd
from unifashion.errors import UserError
from unifashion.evaluation.tryon_results import read_results
from unifashion.tryon import inference
from unifashion.tryon.densepose import colour_parts
from unifashion.tryon.inference import run_inference
from unifashion.tryon.loading import load_pipeline, save_pipeline
from unifashion.tryon.results import check_names, outcome, read_record
from unifashion.tryon.settings import TryOnInferenceSettings


@pytest.fixture(scope="module")
def settings(pipe, tryon_root, tmp_path_factory):
    """Settings that draw three small pictures by the toy pipeline."""
    folder = tmp_path_factory.mktemp("model") / "model"
    save_pipeline(pipe, folder)
    return TryOnInferenceSettings(
        data_root=str(tryon_root), model_path=str(folder), num_inference_steps=1, height=24, width=18, limit=3,
        batch_size=2,
    )  # fmt: skip


def test_a_kill_anywhere_changes_nothing(settings, tmp_path):
    out = tmp_path / "results"
    out.mkdir()

    def draw():
        run_inference(replace(settings, output_dir=str(out)))

    points = kill.points(kill.operations(draw, out))
    whole = kill.contents(out)
    assert len(whole) == 5 and len(points) > 30
    for point in points[::19]:
        shutil.rmtree(out)
        out.mkdir()
        kill.killed_at(draw, out, point)
        draw()
        assert kill.contents(out) == whole, point


def test_a_kill_of_a_call_that_overwrites_does_not_mix_its_pictures_with_the_old_ones(settings, tmp_path):
    out = tmp_path / "results"
    run_inference(replace(settings, output_dir=str(out), seed=1, limit=0))
    new = replace(settings, output_dir=str(out), overwrite=True)
    shutil.copytree(out, tmp_path / "old")
    points = kill.points(kill.operations(lambda: run_inference(new), out))
    whole = kill.contents(out)
    for point in points[5::23]:
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "old", out)
        kill.killed_at(lambda: run_inference(new), out, point)
        try:  # without --overwrite: goes on, or says that the folder still holds the old ones
            run_inference(replace(new, overwrite=False))
        except UserError as error:
            assert "holds results made with another seed" in str(error)
        else:
            assert kill.contents(out) == whole, point


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(settings, small_disk, tmp_path):
    run_inference(replace(settings, output_dir=str(tmp_path / "whole")))
    disk = small_disk(1)
    command = replace(settings, output_dir=str(disk / "results"))
    for leave in (0, 4, 8, 12, 16, 24):
        with filled(disk, leave):
            with pytest.raises(
                UserError, match=r"results(/[\w.]+)? cannot be written: the disk is full; make room and run"
            ):
                run_inference(command)
            assert not list(disk.rglob(".*.*"))
    run_inference(command)
    assert kill.contents(disk / "results") == kill.contents(tmp_path / "whole")


def test_a_second_call_is_refused_and_changes_nothing(settings, tmp_path, monkeypatch):
    command = replace(settings, output_dir=str(tmp_path / "results"))
    real, found = inference._draw, []

    def second_call():
        with pytest.raises(UserError, match="another call is drawing into it; wait until it ends"):
            run_inference(replace(command, overwrite=True))

    def slow(*given):
        monkeypatch.setattr(inference, "_draw", real)
        before = kill.contents(tmp_path)
        found.append((kill.in_a_process(second_call), kill.contents(tmp_path) == before))
        return real(*given)

    monkeypatch.setattr(inference, "_draw", slow)
    run_inference(command)
    assert found == [(0, True)]


@pytest.mark.parametrize("record", ["", "[]", '{"settings": 3}', '{"sett', "null"])
def test_a_damaged_record_is_one_sentence(settings, tmp_path, record):
    command = replace(settings, output_dir=str(tmp_path))
    Image.new("RGB", (3, 3)).save(tmp_path / "00000_00.png")
    (tmp_path / "inference.json").write_text(record)
    before = kill.contents(tmp_path)
    with pytest.raises(
        UserError, match=r"holds (a damaged inference\.json|results made with another .*); name another"
    ):
        run_inference(command)
    assert kill.contents(tmp_path) == before


def test_overwriting_leaves_no_picture_of_other_settings(settings, tmp_path):
    command = replace(settings, output_dir=str(tmp_path), limit=1)
    run_inference(replace(command, limit=0))
    run_inference(replace(command, seed=1, overwrite=True))
    assert len(list(tmp_path.glob("0*.png"))) == 1
    with pytest.raises(UserError, match="holds results made with another pairs; name another folder, or remove them"):
        run_inference(replace(command, seed=1, pairs="unpaired", overwrite=True))


def test_a_damaged_pair_is_left_out_and_told_the_others_are_drawn_and_a_mended_one_later(
    settings, tryon_root, tmp_path, caplog
):
    run_inference(replace(settings, data_root=str(tryon_root), output_dir=str(tmp_path / "whole"), limit=0))
    data = tmp_path / "data"
    shutil.copytree(tryon_root / "vitonhd", data / "vitonhd")
    command = replace(settings, data_root=str(data), output_dir=str(tmp_path / "results"), limit=0)
    photo = data / "vitonhd/test/image/00006_00.jpg"
    good = photo.read_bytes()
    photo.write_bytes(good[:300])
    with pytest.raises(UserError, match=r"25 % of the pairs \(3 of 4 can be used\), limit 1 %.* --max-missing"):
        run_inference(command)
    out = run_inference(replace(command, max_missing=25.0))
    whole = kill.contents(tmp_path / "whole")
    drawn = {path.name for path in out.glob("0*.png")}
    assert drawn == {name for name in map(str, whole) if name.startswith("0")} - {"00006_00.png"}
    record = read_record(out)
    assert (record["used"], record["marks"]) == ("used 3 of 4 pairs", ["synthetic", "incomplete"])
    (sentence,) = record["left_out"]
    assert sentence.startswith(f"00006_00: {photo}: damaged image") and sentence in caplog.text
    assert outcome(out) == f"the results are in {out}; used 3 of 4 pairs, left out: {sentence}"
    photo.write_bytes(good)
    run_inference(command)
    record = read_record(out)
    assert (record["used"], record["marks"], record["left_out"]) == ("used 4 of 4 pairs", ["synthetic"], [])
    pictures = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert pictures == {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.png")}


def test_two_processes_share_the_pairs_and_tell_together_what_was_left_out(settings, tryon_root, tmp_path):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    for name in ("00006_00", "00007_00"):  # one of each process
        (tmp_path / "vitonhd/test/image" / f"{name}.jpg").write_bytes(b"")
    out = tmp_path / "out"
    script = Path(__file__).resolve().parents[2] / "src/UNIStableVITON/inference.py"
    given = {"data-root": tmp_path, "model-path": settings.model_path, "output-dir": out, "max-missing": 50,
             "num-inference-steps": 1, "height": 24, "width": 18}  # fmt: skip
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(script), *flags], env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"the results are in {out}; used 2 of 4 pairs, left out: 00006_00: " in done.stdout
    assert [path.name for path in sorted(out.glob("0*.png"))] == ["00008_00.png", "00009_00.png"]
    assert [line[:9] for line in read_record(out)["left_out"]] == ["00006_00:", "00007_00:"]


def test_a_pair_whose_missing_file_is_added_is_drawn_by_the_same_call(settings, tryon_root, tmp_path):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    command = replace(settings, data_root=str(tmp_path), output_dir=str(tmp_path / "out"), limit=0, max_missing=25.0)
    mask = tmp_path / "vitonhd/test/agnostic-mask/00006_00_mask.png"
    content = mask.read_bytes()
    mask.unlink()
    assert len(list(run_inference(command).glob("0*.png"))) == 3
    mask.write_bytes(content)
    assert len(list(run_inference(command).glob("0*.png"))) == 4


def test_where_no_pair_can_be_drawn_the_first_reason_is_told(settings, tryon_root, tmp_path):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    (tmp_path / "vitonhd/test/image/00006_00.jpg").write_bytes(b"")
    command = replace(settings, data_root=str(tmp_path), output_dir=str(tmp_path / "out"), limit=1)
    with pytest.raises(UserError, match=r"nothing could be drawn: 00006_00: .*00006_00\.jpg: the file is empty"):
        run_inference(command)
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == []


def test_two_pairs_that_would_be_one_file_are_refused_before_anything_is_drawn(settings, tryon_root, tmp_path):
    items = [TryOnItem("a", "b_c", {}, ()), TryOnItem("x", "x", {}, ()), TryOnItem("a_b", "c", {}, ())]
    with pytest.raises(UserError, match=r"the pair a_b c and the pair a b_c would both be a_b_c\.png; rename a photo"):
        check_names(items)
    with pytest.raises(UserError, match=r"the pair dresses 1 1 and the pair upper_body 1 1 would both be 1\.png"):
        check_names([TryOnItem("1", "1", {}, (), name) for name in ("upper_body", "dresses")])
    with pytest.raises(UserError, match=r"examples examples and the sheet of examples would both be examples\.png"):
        check_names([TryOnItem("examples", "examples", {}, ())])
    with pytest.raises(UserError, match=r"the pair ANNA ANNA and the pair Anna Anna would both be ANNA\.png"):
        check_names([TryOnItem(name, name, {}, ()) for name in ("Anna", "ANNA")])
    (tmp_path / "pairs.txt").write_text("a b_c\na_b c\n")
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    for name in ("a", "a_b"):
        for path in [*(tmp_path / "vitonhd" / "test").rglob("00006_00*")]:
            if path.parent.name != "im_sketch_unpaired":
                shutil.copy(path, path.with_name(path.name.replace("00006_00", name)))
    for name in ("b_c", "c"):
        shutil.copy(tmp_path / "vitonhd/test/cloth/00006_00.jpg", tmp_path / f"vitonhd/test/cloth/{name}.jpg")
    pairs = str(tmp_path / "pairs.txt")
    with pytest.raises(UserError, match=r"would both be a_b_c\.png"):
        run_inference(replace(settings, data_root=str(tmp_path), pairs=pairs, output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    (tmp_path / "drawn").mkdir()
    with pytest.raises(UserError, match=r"would both be a_b_c\.png"):
        read_results(tmp_path / "drawn", read_vitonhd(tmp_path, "test", ("image",), pairs))


def test_a_real_unpaired_pair_is_drawn_from_the_sketch_of_its_garment(settings, shared, tmp_path):
    source, home = shared / "data/vitonhd/test", tmp_path / "vitonhd" / "test"
    (person, garment), body = ("00891_00", "01430_00"), home / "image-densepose"
    for file in (
        f"image/{person}.jpg", f"image-parse-v3/{person}.png", f"openpose_json/{person}_keypoints.json",
        f"cloth/{garment}.jpg", f"cloth-mask/{garment}.jpg",
    ):  # fmt: skip
        (home / file).parent.mkdir(parents=True)
        shutil.copy(source / file, home / file)
    (tmp_path / "vitonhd" / "test_pairs.txt").write_text(f"{person}.jpg {garment}.jpg\n")
    body.mkdir()
    parts = (
        np.asarray(Image.open(home / f"image-parse-v3/{person}.png")) > 0
    )  # DensePose's map is not among the samples
    Image.fromarray(parts.astype(np.uint8) * 2).save(tmp_path / "parts.png")
    colour_parts(tmp_path / "parts.png").save(body / f"{person}.png")
    assert prepare_tryon(tmp_path, num_threads=1, progress=False)[1].failed == ()
    pipe = load_pipeline(settings.model_path)
    for control in ("garment-sketch", "sketch"):
        pipe.denoiser.register_to_config(control=control)
        save_pipeline(pipe, tmp_path / control)
        out = run_inference(replace(
            settings, data_root=str(tmp_path), model_path=str(tmp_path / control), pairs="unpaired", height=48, width=36,
            output_dir=str(tmp_path / f"drawn-{control}"),
        ))  # fmt: skip
        assert (out / f"{person}_{garment}.png").is_file()
        assert read_record(out)["control"] == control


def test_a_photo_of_another_aspect_ratio_than_the_model_s_is_given_back_in_its_own(settings, tmp_path):
    out = run_inference(replace(settings, output_dir=str(tmp_path / "results"), height=24, width=24, limit=1))
    (result,) = [path for path in out.glob("*_00.png")]
    assert Image.open(result).size == (48, 64)

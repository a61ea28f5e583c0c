import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_faces
from PIL import Image
from runs import plain_net, small_run

from labkit.checkpoint import save_weights
from labkit.cli import build_parser, main, train_settings
from labkit.config import TrainConfig
from labkit.data import PairList
from labkit.evaluate import read_scores, write_scores
from labkit.models import InputSpec, build_model
from labkit.train import fit


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    about = dict(model_name="ThinResNet34", embedding_size=16, input_spec=InputSpec(48))
    save_weights(path, build_model("ThinResNet34", 16), **about)
    return str(path)


@pytest.fixture(scope="module")
def test_list(data_directory, weights):
    """`labkit eval` of the test list, without further flags."""
    command = ["eval", "--weights", weights, "--test_path", data_directory / "test"]
    return [*command, "--test_list", data_directory / "test_pairs.csv", "--device", "cpu"]


def run(capsys, *arguments):
    """Exit code, standard output and standard error of one command, in this process."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def run_json(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_command_of_the_voxceleb_trainer_means_the_same_here():
    args = build_parser().parse_args(
        "train --model ThinResNet50_V2 --train_path data/train/VGGFace2 --trainfunc amsoftmax "
        "--scale 30 --margin 0.1 --save_path exps/T50V2 --max_epoch 60 --nPerClass 1 "
        "--nClasses 8631 --max_img_per_cls 200 --batch_size 200 --lr 0.001 --lr_decay 0.95 "
        "--scheduler cosineRestartlr --gpu 0 --nOut 512 --nDataLoaderThread 5 --mixedprec "
        "--test_interval 3 --test_path data/val --test_list data/val_pairs.csv --train_ext jpg "
        "--optimizer adam --weight_decay 0 --initial_model a.model".split()
    )
    assert train_settings(args) == dict(
        model="ThinResNet50_V2", train_dir="data/train/VGGFace2", loss="amsoftmax", scale=30.0,
        margin=0.1, run_dir="exps/T50V2", max_epoch=60, images_per_class=1, num_classes=8631,
        max_images_per_class=200, batch_size=200, lr=0.001, lr_decay=0.95,
        scheduler="cosineRestartlr", device="cuda:0", embedding_size=512, workers=5,
        mixed_precision=True, val_interval=3, lr_step_epochs=3, val_dir="data/val",
        val_list="data/val_pairs.csv", train_extensions="jpg", optimizer="adam",
        weight_decay=0.0, initial_weights="a.model",
    )  # fmt: skip
    TrainConfig(**train_settings(args))


def test_a_command_that_names_no_validation_uses_the_usual_place_if_it_is_there(
    data_directory, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--train_path", data_directory / "train", "--image_size", 32]
    command += ["--batch_size", 10, "--max_epoch", 1, "--nOut", 16, "--save_path"]
    assert run_json(capsys, *command, "without")["best_val_eer"] is None
    (tmp_path / "data").symlink_to(data_directory)
    assert run_json(capsys, *command, "with")["best_val_eer"] is not None


def test_a_settings_file_takes_the_voxceleb_trainers_names_and_flags_win(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(
        "trainfunc: angproto\nnPerClass: 2\nlr: 1e-3\ntest_interval: 3\ngpu: 1\nmax_epoch: 5\n"
    )
    command = ["train", "--config", str(path), "--max_epoch", "1", "--val_interval", "2"]
    assert train_settings(build_parser().parse_args(command)) == dict(
        loss="angproto", images_per_class=2, lr="1e-3", device="cuda:1",
        val_interval=2, lr_step_epochs=3, max_epoch=1,
    )  # fmt: skip
    path.write_text("trainfun: softmax\n")
    code, _, err = run(capsys, *command)
    assert code == 2 and "no setting 'trainfun': did you mean trainfunc?" in err


def test_from_a_folder_to_pairs_scores_and_the_eer(data_directory, weights, tmp_path, capsys):
    test = data_directory / "test"
    pairs = tmp_path / "pairs.csv"
    made = run_json(capsys, "pairs", test, "--out", pairs, "--per-image", 6)
    assert made["pairs"] == len(PairList.read(pairs, test))
    scores = tmp_path / "scores.csv"
    command = ["eval", "--weights", weights, "--test_path", test]
    direct = run_json(capsys, *command, "--test_list", pairs, "--output", scores)
    assert run_json(capsys, "score", scores)["eer"] == pytest.approx(direct["eer"], abs=1e-6)

    blind, blind_scores = tmp_path / "blind.csv", tmp_path / "blind_scores.csv"
    names = PairList.read(pairs)
    PairList(names.files, names.left, names.right, None).write(blind)
    code, _, err = run(capsys, *command, "--test_list", blind)
    assert code == 2 and "give --output" in err
    run_json(capsys, *command, "--test_list", blind, "--output", blind_scores)
    code, _, err = run(capsys, "score", blind_scores)
    assert code == 2 and "give --labels" in err
    found = run_json(capsys, "score", blind_scores, "--labels", pairs)
    assert found["eer"] == pytest.approx(direct["eer"], abs=1e-6)


def test_a_report_holds_other_systems_by_their_score_files(
    data_directory, test_list, tmp_path, capsys
):
    pairs = PairList.read(data_directory / "test_pairs.csv")
    rng = np.random.default_rng(0)
    write_scores(tmp_path / "guess.csv", rng.random(len(pairs)), pairs)
    mixed = rng.permutation(len(pairs))
    blind = PairList(pairs.files, pairs.left[mixed], pairs.right[mixed], None)
    write_scores(tmp_path / "oracle.csv", pairs.labels[mixed] + rng.random(len(pairs)), blind)
    others = [tmp_path / "guess.csv", tmp_path / "oracle.csv"]
    report = tmp_path / "report"
    assert run_json(capsys, *test_list, "--report", report, "--compare", *others)["eer"] > 0
    summary = json.loads((report / "summary.json").read_text())
    names = [system["name"] for system in summary["systems"]]
    assert names == ["test_pairs", "guess", "oracle"] and summary["systems"][2]["eer"] == 0
    assert [c["name_b"] for c in summary["comparisons"]] == ["guess", "oracle"]
    page = (report / "report.html").read_text(encoding="utf-8")
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert {"DET curve", "Hardest target pairs: test_pairs"} <= set(headings)
    assert not any("guess" in heading or "oracle" in heading for heading in headings)
    assert "oracle is better than test_pairs" in page
    for name in ("det.png", "roc.png", "report.pdf"):
        assert (report / name).stat().st_size > 5000


def test_a_comparison_does_not_depend_on_how_names_are_written(
    data_directory, test_list, tmp_path, capsys
):
    pairs = PairList.read(data_directory / "test_pairs.csv")
    write_scores(tmp_path / "guess.csv", np.random.default_rng(0).random(len(pairs)), pairs)
    told = []
    for k, other_form in enumerate((",id", ",./id")):
        listed, guess = tmp_path / f"list{k}.csv", tmp_path / f"{k}" / "guess.csv"
        guess.parent.mkdir()
        for ours, theirs in ((listed, test_list[-3]), (guess, tmp_path / "guess.csv")):
            ours.write_text(theirs.read_text().replace(",id", other_form))
        command = [*test_list[:-3], listed, *test_list[-2:], "--compare", guess]
        run_json(capsys, *command, "--report", tmp_path / f"r{k}")
        told += json.loads((tmp_path / f"r{k}" / "summary.json").read_text())["comparisons"]
    assert told[0]["low"] < told[0]["high"]
    assert told[1] == told[0] | {"name_a": "list1"}


def test_compared_score_files_must_be_of_this_list(test_list, tmp_path, capsys):
    other = PairList.from_names(["a/1.jpg"], ["b/1.jpg"], [0])
    write_scores(tmp_path / "other.csv", np.zeros(1), other)
    compared = [*test_list, "--compare", tmp_path / "other.csv"]
    code, _, err = run(capsys, *compared, "--report", tmp_path / "r")
    assert code == 2 and "other.csv does not fit" in err and err.count("\n") == 1
    code, _, err = run(capsys, *compared)
    assert code == 2 and "give --report" in err and not (tmp_path / "r").exists()


def test_any_precision_gives_nearly_the_same_scores(test_list, tmp_path, capsys):
    scores = []
    for precision in ("fp32", "bf16"):
        run_json(capsys, *test_list, "--output", tmp_path / "s.csv", "--precision", precision)
        scores.append(read_scores(tmp_path / "s.csv").scores)
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.02


def test_embeddings_are_written_with_their_names(data_directory, weights, tmp_path, capsys):
    out = tmp_path / "embeddings.npz"
    run_json(capsys, "embed", data_directory / "val", "--weights", weights, "--out", out)
    with np.load(out) as stored:
        assert stored["files"][0] == "id2000/000.jpg"
        assert stored["embeddings"].shape == (48, 16)
        np.testing.assert_allclose(np.linalg.norm(stored["embeddings"], axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def known(data_directory, weights, tmp_path_factory):
    """A calibrated gallery file."""
    out = tmp_path_factory.mktemp("gallery") / "gallery.safetensors"
    val = data_directory / "val"
    command = ["gallery", val, "--weights", weights, "--out", out, "--val_path", val]
    command += ["--val_list", data_directory / "val_pairs.csv"]
    assert main([str(argument) for argument in command]) == 0
    return out


def test_the_map_of_a_gallery(known, tmp_path, capsys):
    for name, start in (("map.html", b"<!"), ("map.png", b"\x89PNG"), ("map.pdf", b"%PDF")):
        out = tmp_path / name
        made = run_json(capsys, "facemap", "--gallery", known, "--out", out, "--method", "pca")
        assert out.read_bytes().lstrip().startswith(start) and made["people"] == 8
    out = tmp_path / "photos.html"
    made = run_json(capsys, "facemap", "--gallery", known, "--out", out, "--photos")
    assert made["photos"] == 48 and 0 <= made["identity_purity"] <= 1
    assert "48 faces" in out.read_text()
    code, _, err = run(capsys, "facemap", "--gallery", known, "--out", tmp_path / "map.txt")
    assert code == 2 and ".html, .png or .pdf" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("pairs /nowhere --out {tmp}/p.csv", "/nowhere does not exist"),
        ("eval --weights /no.safetensors --test_path . --test_list x", "/no.safetensors"),
        ("score {tmp}/none.csv", "none.csv"),
        ("lookalike x.jpg --gallery {tmp}/none.safetensors", "does not exist"),
        ("facemap --gallery {tmp}/none.safetensors --out m.html", "does not exist"),
        ("train --config {tmp}/none.yaml", "none.yaml"),
        ("train --train_path /nowhere --save_path {tmp}/run", "/nowhere does not exist"),
        ("train --batch_size 0 --save_path {tmp}/run", "batch_size must be 2 or more"),
        ("train --eval", "--eval needs"),
        ("run --data /nowhere --preset smoke --out {tmp}/run", "/nowhere does not exist"),
        ("embed /nowhere --weights {tmp}/x --out {tmp}/y.npz", "{tmp}/x"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, message, tmp_path, capsys):
    arguments = command.replace("{tmp}", str(tmp_path)).split()
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert message.replace("{tmp}", str(tmp_path)) in err
    assert err.startswith("labkit: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["", "trian", "train --lr fast", "synth --out x --size -3", "run --data"]
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_photo_that_will_not_do_is_one_line(known, tmp_path, capsys):
    grey, text = tmp_path / "grey.png", tmp_path / "text.jpg"
    Image.new("RGB", (200, 200), (120, 120, 120)).save(grey)
    text.write_bytes(b"text")
    for photo, message in ((grey, f"no face found in {grey}"), (text, f"{text} is not a picture")):
        code, out, err = run(capsys, "lookalike", photo, "--gallery", known)
        assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_look_alikes_with_what_they_mean_and_a_sheet(known, tmp_path, capsys):
    portrait = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    group = Image.new("RGB", (1100, 512))
    group.paste(portrait, (0, 0))
    group.paste(portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (560, 0))
    photo, sheet = tmp_path / "group.png", tmp_path / "sheet.png"
    group.save(photo)
    command = ["lookalike", photo, "--gallery", known, "-k", 3]
    [answer] = run_json(capsys, *command, "--sheet", sheet)["photos"]
    assert answer["faces"] == 2 and len(answer["matches"]) == 3
    assert 0 <= answer["matches"][0]["closer_than_percent"] <= 100
    assert 0 <= answer["matches"][0]["strangers_this_close_percent"] <= 100
    assert not any("same_person" in key for match in answer["matches"] for key in match)
    assert Image.open(sheet).width > 500
    [second] = run_json(capsys, *command, "--face", 2)["photos"]
    assert abs(second["box"][0] - answer["box"][0]) > 300
    code, out, _ = run(capsys, *command)
    assert code == 0 and "face 1 of 2" in out and re.search("closer|alike", out)
    by_hand = ",".join(str(edge) for edge in answer["box"])
    [again] = run_json(capsys, *command, "--box", by_hand)["photos"]
    assert again["matches"] == answer["matches"] and again["is_face"]
    [wall] = run_json(capsys, *command, "--box", "1,1,80,80")["photos"]
    assert not wall["is_face"] and len(wall["matches"]) == 3
    assert "strangers_this_close_percent" not in wall["matches"][0]
    assert "No face was found in this box" in run(capsys, *command, "--box", "1,1,80,80")[1]
    code, _, err = run(capsys, *command, "--face", 9)
    assert code == 2 and "shows 2 face(s)" in err


@pytest.mark.parametrize(
    ("command", "name"), [("train", "SIGTERM"), ("train", "SIGINT"), ("doctor", "SIGINT")]
)
def test_a_command_stopped_at_any_time_has_an_exit_code_of_its_own(
    command, name, monkeypatch, capsys
):
    number = getattr(signal, name)
    monkeypatch.setattr(f"labkit.commands.{command}", lambda args: os.kill(os.getpid(), number))
    code, out, err = run(capsys, command)
    assert code == 75 and out == ""
    assert f"stopped by {name}" in err and err.count("\n") == 1


def test_of_several_processes_the_first_alone_prints(monkeypatch, capsys):
    command = ["train", "--batch_size", 0]
    monkeypatch.setenv("RANK", "0")
    assert "batch_size" in run(capsys, *command)[2]
    monkeypatch.setenv("RANK", "1")
    assert run(capsys, *command) == (2, "", "")


SPINS = """
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import labkit.cli
with ProcessPoolExecutor(1, get_context("spawn")) as worker:
    print(worker.submit(os.getenv, "GOMP_SPINCOUNT").result(), os.getenv("KMP_BLOCKTIME"))
"""


@pytest.mark.parametrize(
    ("own", "spins"),
    [
        ({}, "1000 0"),
        (dict(GOMP_SPINCOUNT="5"), "5 0"),
        (dict(KMP_BLOCKTIME="9"), "1000 9"),
        (dict(OMP_WAIT_POLICY="active"), "None None"),
    ],
)
def test_waiting_threads_sleep_soon_in_workers_too_and_ones_own_setting_wins(
    monkeypatch, own, spins
):
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", SPINS]
    told = subprocess.check_output(command, env=os.environ | own, text=True)
    assert told == spins + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch has another OpenMP")
def test_pytorchs_openmp_reads_how_long_to_wait(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    command = [sys.executable, "-m", "labkit", "score", "nowhere.csv"]
    environment = os.environ | dict(OMP_DISPLAY_ENV="verbose")
    told = subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    assert "GOMP_SPINCOUNT = '1000'" in told and "'300000'" not in told


def test_doctor_describes_this_machine_and_a_data_directory(data_directory, tmp_path, capsys):
    found = run_json(capsys, "doctor", "--data", data_directory)
    assert found["cores"] >= 1 and "cpu" in found["devices"] and found["data"]["problem"] is None
    assert found["data"]["val"] == {"identities": 8, "images": 48}
    make_faces(tmp_path / "train", 2, 2)
    code, out, _ = run(capsys, "doctor", "--data", tmp_path)
    assert code == 2 and "pretrain does not exist" in out and "problem" in out
    code, out, _ = run(capsys, "doctor", "--data", tmp_path / "nowhere", "--json")
    assert code == 2 and "nowhere does not exist" in json.loads(out)["data"]["problem"]
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and f"processor cores: {found['cores']} for this process" in out
    assert found["cores_of_machine"] >= found["cores"] and found["cores_busy"] >= 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux")
def test_doctor_counts_the_cores_that_this_process_may_use():
    [core, *_] = os.sched_getaffinity(0)
    script = f"import os; os.sched_setaffinity(0, [{core}]); from labkit.cli import main; "
    command = [sys.executable, "-c", script + "main(['doctor', '--json'])"]
    assert json.loads(subprocess.check_output(command))["cores"] == 1


def test_doctor_looks_at_the_pictures_and_says_what_is_passed_over(
    data_directory, tmp_path, capsys
):
    root = shutil.copytree(data_directory, tmp_path / "data")
    (root / "train" / "@eaDir").mkdir()
    (root / "val" / "id2000" / "notes.txt").write_text("")
    code, out, _ = run(capsys, "doctor", "--data", root)
    assert code == 0 and "passed over 1 @eaDir" in out and "passed over 1 .txt" in out
    bad = root / "test" / "id3001" / "002.jpg"
    bad.write_bytes(bad.read_bytes()[:-200])
    (root / "pretrain" / "id0003" / "001.jpg").write_text("no picture")
    (root / "train" / "identities.csv").write_text("who\n")
    code, out, _ = run(capsys, "doctor", "--data", root)
    assert code == 2 and "in order" not in out and "passed over 1 @eaDir" in out
    for part in (
        f"{bad} cannot be read: ",
        "id0003/001.jpg cannot be read: not an image",
        "line 1",
    ):
        assert part in out


def test_training_says_what_it_passes_over_and_resumes_a_run_of_the_old_default(
    data_directory, tmp_path, capsys
):
    faces = shutil.copytree(data_directory / "train", tmp_path / "faces")
    (faces / "id1000" / "readme.txt").write_text("")
    flags = ["--train_path", faces, "--save_path", tmp_path / "run", "--batch_size", 4]
    flags += ["--image_size", 32, "--device", "cpu"]
    code, out, err = run(capsys, "train", *flags, "--max_epoch", 1, "--train_ext", "jpg,jpeg,png")
    assert code == 0 and "passed over 1 .txt" in out, err
    assert f"new run folder: {tmp_path}/run\n" in out
    config = tmp_path / "run" / "config.yaml"
    old = config.read_text().replace("train_extensions: null", "train_extensions: jpg,jpeg,png")
    assert "jpg,jpeg,png" in old
    config.write_text(old)
    code, out, err = run(capsys, "train", *flags, "--max_epoch", 2)
    assert code == 0 and "going on in epoch 2" in out and "new run folder" not in out, err


def test_help_needs_no_pytorch():
    code = "import sys, labkit.cli; labkit.cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_network_of_ones_own_is_used_with_its_plugin(data_directory, tmp_path):
    """In processes of their own, where nothing has registered it."""
    plugin, run_dir = plain_net(tmp_path), tmp_path / "run"
    config = small_run(data_directory, run_dir, plugin=plugin, model="plain", max_epoch=1)
    weights = str(fit(config).last_weights)
    command = [sys.executable, "-m", "labkit", "eval", "--device", "cpu", "--weights", weights]
    command += ["--test_path", config.val_dir, "--test_list", config.val_list]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "registers it with --plugin" in done.stderr
    done = subprocess.run([*command, "--plugin", plugin], capture_output=True, text=True)
    assert done.returncode == 0 and "EER" in done.stdout, done.stderr
    as_voxceleb = ["train", "--eval", "--initial_model", weights, "--plugin", plugin, *command[8:]]
    done = subprocess.run([*command[:3], *as_voxceleb], capture_output=True, text=True)
    assert done.returncode == 0 and "EER" in done.stdout, done.stderr


def test_an_unreadable_photo_is_left_out_and_listed_and_the_others_are_embedded(
    data_directory, weights, tmp_path, capsys
):
    portrait = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    for folder in ("a", "b"):
        (tmp_path / "faces" / folder).mkdir(parents=True)
        portrait.save(tmp_path / "faces" / folder / "0.jpg")
    (tmp_path / "faces" / "a" / "bad.jpg").write_bytes(b"text")
    out = tmp_path / "e.npz"
    command = ["embed", tmp_path / "faces", "--weights", weights, "--out", out]
    gallery = ["gallery", tmp_path / "faces", "--weights", weights]
    gallery += ["--out", tmp_path / "g.safetensors"]
    for flags in ([], ["--detect"]):
        made = run_json(capsys, *command, *flags)
        assert made["skipped"] == ["a/bad.jpg"] and made["images"] == 2
        with np.load(out) as stored:
            assert stored["files"].tolist() == ["a/0.jpg", "b/0.jpg"]
            one, two = stored["embeddings"]
            assert one @ two > 0.99
        code, told, _ = run(capsys, *command, *flags)
        assert code == 0 and "left out, 1 unreadable: a/bad.jpg" in told
    assert run_json(capsys, *gallery)["skipped"] == ["a/bad.jpg"]
    (tmp_path / "faces" / "b" / "bad.png").write_bytes(b"")
    for many in (command, [*command, "--detect"], gallery):
        code, _, err = run(capsys, *many)
        assert code == 2 and "2 of 4 images" in err and "a/bad.jpg first" in err


def test_a_photo_that_will_not_do_does_not_end_the_search_for_the_others(known, tmp_path, capsys):
    portrait = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    photos = [tmp_path / name for name in ("a/me.png", "bad.jpg", "grey.png", "b/me.png")]
    for photo in photos:
        photo.parent.mkdir(exist_ok=True)
    portrait.save(photos[0])
    portrait.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos[3])
    photos[1].write_bytes(b"text")
    Image.new("RGB", (200, 200), (120, 120, 120)).save(photos[2])
    command = ["lookalike", *photos, "--gallery", known]
    found = run_json(capsys, *command, "--sheet", tmp_path / "sheet.png")
    assert [answer["photo"] for answer in found["photos"]] == [str(photos[0]), str(photos[3])]
    assert found["skipped"] == [str(photos[1]), str(photos[2])]
    sheets = [answer["sheet"] for answer in found["photos"]]
    assert len(set(sheets)) == 2 == len(list(tmp_path.glob("sheet*.png")))
    assert all(Image.open(sheet).width > 500 for sheet in sheets)
    code, out, _ = run(capsys, *command)
    assert code == 0 and f"left out: {photos[1]} is not a picture" in out


@pytest.mark.parametrize("spoil", ["weights", "std"])
def test_a_network_whose_embeddings_are_not_finite_is_refused_by_all(
    data_directory, tmp_path, capsys, spoil
):
    network = build_model("ThinResNet34", 16)
    if spoil == "weights":
        next(network.parameters()).data.fill_(float("nan"))
    spec = InputSpec(48, std=(0.0,) * 3) if spoil == "std" else InputSpec(48)
    path, val = tmp_path / "nan.safetensors", data_directory / "val"
    save_weights(path, network, model_name="ThinResNet34", embedding_size=16, input_spec=spec)
    listed, out = data_directory / "val_pairs.csv", tmp_path / "out"
    for command in (
        ["embed", val, "--out", out],
        ["gallery", val, "--out", out],
        ["eval", "--test_path", val, "--test_list", listed, "--output", out],
        ["eval", "--test_path", val, "--test_list", listed, "--output", out, "--flip"],
    ):
        code, told, err = run(capsys, *command, "--weights", path, "--device", "cpu")
        assert code == 2 and told == "" and err.count("\n") == 1, err
        assert "zero or not finite" in err or "std" in err
        assert not out.exists()
    photo = tmp_path / "photos" / "me" / "0.png"
    photo.parent.mkdir(parents=True)
    Image.fromarray(pytest.importorskip("skimage.data").astronaut()).save(photo)
    command = ["embed", tmp_path / "photos", "--out", out, "--detect", "--weights", path]
    code, _, err = run(capsys, *command)
    assert code == 2 and ("zero or not finite" in err or "std" in err) and not out.exists()

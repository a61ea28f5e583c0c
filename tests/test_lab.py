import sys
from contextlib import nullcontext

import pytest

from labkit.lab import Lab
from labkit.utils import UserError


@pytest.fixture
def lab(data_directory, tmp_path):
    return Lab(preset="demo", data_dir=str(data_directory), run_dir=str(tmp_path / "run"))


def test_a_small_data_directory_gets_a_batch_that_fits(lab):
    assert lab.config("pretrain").batch_size == 12
    assert lab.config("pretrain", batch_size=5).batch_size == 5
    other = str(lab.data.val)
    assert lab.config("pretrain", train_dir=other).batch_size == 8
    with pytest.raises(UserError, match="did you mean max_epoch?"):
        lab.config("pretrain", epochs=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(seed="abc"), "seed must be a whole number of 0 or more, found 'abc'"),
        (dict(seed=-1), "found -1"),
        (dict(preset=5), "no preset '5'"),
    ],
)
def test_a_setting_of_a_wrong_type_is_one_clear_line(settings, message):
    with pytest.raises(UserError, match=message):
        Lab(**settings)


def test_folders_are_absolute_and_a_number_or_a_tilde_will_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Lab(run_dir=2024).run_path == tmp_path / "2024"
    lab = Lab(run_dir="~/run", data_dir="~/data")
    assert lab.folder("pretrain") == tmp_path / "home/run/pretrain"
    assert lab.data.val == tmp_path / "home/data/val"
    with pytest.raises(UserError, match="home/data does not exist"):
        lab.prepare_data()
    assert capsys.readouterr().out == ""


def test_where_a_new_run_folder_is_made_is_said(lab, tmp_path, capsys):
    for said in (f"new run folder: {tmp_path}/run\n", ""):
        lab.prepare_data()
        assert capsys.readouterr().out == said


def test_an_unknown_training_is_one_clear_line(lab):
    with pytest.raises(UserError, match="no training 'pretrian': choose pretrain or finetune"):
        lab.config("pretrian")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("prest = 'smoke'", "no parameter 'prest': did you mean preset?"),
        ("draws = 2.5", "draws must be a whole number, found 2.5"),
        ("draws = 'many'", "draws must be a whole number, found 'many'"),
        ("preset = 'smoke'\nphoto = 'me.jpg'\ndraws = 3\nrate = 1", None),
    ],
)
def test_parameters_that_a_notebook_does_not_have_are_refused(monkeypatch, given, message):
    own = "preset = 'demo'  # one\nphoto = None\ndraws = 10\nrate = 1 / 3"
    cells = ["", own, f"# Parameters\n{given}\n", "from labkit.lab import Lab"]
    monkeypatch.setattr(sys.modules["__main__"], "In", cells, raising=False)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        Lab(run_dir="here")


def test_a_missing_file_names_the_notebook_that_has_to_run_before(lab):
    with pytest.raises(UserError, match="run notebook 01_pretrain with run_dir"):
        lab.config("finetune")
    assert lab.config("finetune", initial_weights=None).initial_weights is None
    with pytest.raises(UserError, match="run notebook 04_lookalike"):
        lab.file("lookalike", "gallery.safetensors")


def test_all_stars_are_those_of_train_val_and_test(lab):
    stars = lab.stars()
    assert len(stars.identities) == 10 + 8 + 8
    assert {stars.name(i).split("/")[0] for i in range(len(stars))} == {"train", "val", "test"}


def test_what_is_wrong_is_told_before_anything_is_made(tmp_path):
    lab = Lab(preset="smoke", data_dir=str(tmp_path), run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="problems:"):
        lab.prepare_data()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="choose one of smoke, demo, paper"):
        Lab(preset="huge")


def test_data_and_pretraining_of_the_staff_are_used_where_a_run_has_none(
    lab, tmp_path, monkeypatch, capsys
):
    shared = tmp_path / "staff" / "pretrain" / "best.safetensors"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(b"weights")
    monkeypatch.setenv("KSTAR_FACELAB_DATA", str(lab.data.root))
    monkeypatch.setenv("KSTAR_FACELAB_RUNS", str(tmp_path / "staff"))
    own = Lab("smoke", run_dir=str(tmp_path / "own"))
    assert own.data.root == lab.data.root and own.prepare_data()
    assert own.weights("pretrain") == shared and str(shared) in capsys.readouterr().out
    mine = own.folder("pretrain") / "best.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert own.weights("pretrain") == mine
    with pytest.raises(UserError, match="run notebook 02_finetune"):
        own.weights("finetune")

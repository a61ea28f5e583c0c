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
    with pytest.raises(UserError, match="problems in .*:"):
        lab.prepare_data()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="choose one of smoke, demo, paper"):
        Lab(preset="huge")

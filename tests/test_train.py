import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_faces
from runs import own_code, same, small_run, state_of

from labkit import train
from labkit.checkpoint import RunFolder, load_weights, read_metrics
from labkit.train import fit, lr_at
from labkit.utils import Stopped, UserError


@pytest.fixture
def config(data_directory, tmp_path):
    return small_run(data_directory, tmp_path / "run")


def test_training_lowers_the_loss_and_leaves_a_whole_run_folder(config):
    result = fit(config)
    rows = read_metrics(result.run_dir / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert result.best_val_eer == min(row["val_eer"] for row in rows)
    assert rows[result.best_epoch - 1]["val_eer"] == result.best_val_eer
    model, info = load_weights(result.last_weights)
    saved = state_of(config.run_dir)["module"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[f"network.{name}"])
    assert info.input.image_size == 32
    assert not [p for p in result.run_dir.rglob("*partial*")]


def test_a_finished_run_is_not_trained_again_and_that_is_said(config, capsys):
    first = fit(replace(config, max_epoch=1))
    before = state_of(config.run_dir)
    capsys.readouterr()
    again = fit(replace(config, max_epoch=1))
    assert again == first and same(state_of(config.run_dir), before)
    assert "1 epochs are trained, nothing to do" in capsys.readouterr().out


def test_a_run_that_has_moved_with_its_data_goes_on(data_directory, tmp_path, monkeypatch, capsys):
    """From relative paths to absolute ones, then to another place, then without the data."""
    shutil.copytree(data_directory, tmp_path / "a/data")
    monkeypatch.chdir(tmp_path / "a")
    start = fit(small_run(Path("data"), Path("start"), max_epoch=1)).last_weights
    fit(small_run(Path("data"), Path("run"), initial_weights=start, max_epoch=1))
    for old, new in (("a", "a"), ("a", "b/c")):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        (tmp_path / old).rename(tmp_path / new)
        weights = tmp_path / new / "start/last.safetensors"
        run = small_run(tmp_path / new / "data", tmp_path / new / "run", max_epoch=1)
        capsys.readouterr()
        fit(replace(run, initial_weights=str(weights)))
        assert "nothing to do" in capsys.readouterr().out
    shutil.copy(tmp_path / "b/c/run/last.safetensors", weights)
    with pytest.raises(UserError, match=r"other settings: initial_weights \(changed\); choose"):
        fit(replace(run, initial_weights=str(weights)))
    with pytest.raises(UserError, match=r"settings: initial_weights \(changed\); choose"):
        fit(run)
    shutil.rmtree(tmp_path / "b/c/data")
    weights.unlink()
    assert len(fit(replace(run, initial_weights=str(weights))).rows) == 1


def test_other_pictures_under_the_same_names_are_other_settings(config, tmp_path):
    root = make_faces(tmp_path / "faces", 12, 6)
    config = replace(config, train_dir=str(root), max_epoch=1)
    fit(config)
    other = make_faces(tmp_path / "smaller", 12, 6, size=48)
    with pytest.raises(UserError, match=r"other settings: the pictures in train_dir \(changed\)"):
        fit(replace(config, train_dir=str(other)))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_stopped_in_mid_epoch_ends_bit_for_bit_like_one_never_stopped(
    config, monkeypatch, optimizer
):
    config = replace(config, optimizer=optimizer, loss="triplet", images_per_class=2)
    fit(replace(config, run_dir=config.run_dir + "-whole"))

    calls = []

    def stop_at_some_steps(*arguments):
        calls.append(1)
        if len(calls) in (2, 7):
            os.kill(os.getpid(), signal.SIGTERM)
        return lr_at(*arguments)

    monkeypatch.setattr(train, "lr_at", stop_at_some_steps)
    for _ in range(2):
        with pytest.raises(Stopped, match="the same command goes on from here"):
            fit(config)
    fit(config)
    assert same(state_of(config.run_dir), state_of(config.run_dir + "-whole"))


def test_a_run_killed_hard_goes_on_and_ends_bit_for_bit_alike(config):
    fit(replace(config, run_dir=config.run_dir + "-whole"))
    config.to_yaml(config.run_dir + ".yaml")
    script = textwrap.dedent(f"""
        from labkit.config import TrainConfig
        from labkit.train import fit
        fit(TrainConfig.from_yaml({config.run_dir + ".yaml"!r}, checkpoint_minutes=0.0))
    """)
    state = RunFolder(config.run_dir).state_file
    for wanted in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", script])
        seen = set()
        while process.poll() is None and len(seen) < 3 * wanted:
            if state.exists():
                seen.add(state.stat().st_mtime_ns)
            time.sleep(0.002)
        process.kill()
        process.wait()
    fit(config)
    assert same(state_of(config.run_dir), state_of(config.run_dir + "-whole"))


def test_a_frozen_backbone_stays_as_it_was(config):
    start = fit(replace(config, run_dir=config.run_dir + "-start", max_epoch=1)).last_weights
    tuned = fit(
        replace(config, initial_weights=str(start), freeze_epochs=1, max_epoch=1)
    ).last_weights
    before, after = load_weights(start)[0].state_dict(), load_weights(tuned)[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_without_validation_the_last_epoch_counts_as_the_best(config):
    result = fit(replace(config, val_dir=None, val_list=None, max_epoch=2))
    assert result.best_val_eer is None and result.best_epoch == 2
    assert read_metrics(result.run_dir / "metrics.csv")[0]["val_eer"] is None


def test_validation_can_be_rarer_but_the_last_epoch_has_one(config):
    rows = fit(replace(config, val_interval=3)).rows
    assert [row["val_eer"] is not None for row in rows] == [False, False, True, True]


def test_few_corrupt_images_are_skipped_and_named_and_many_stop_the_run(config, tmp_path, capsys):
    root = make_faces(tmp_path / "faces", 12, 20)
    config = replace(config, train_dir=str(root), max_epoch=1, val_dir=None, val_list=None)
    images = sorted(root.rglob("*.jpg"))
    images[7].write_bytes(b"broken")
    result = fit(config)
    assert result.unreadable == [images[7].relative_to(root).as_posix()]
    assert result.unreadable[0] in capsys.readouterr().out

    for path in images[20:24]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="more than 1 %"):
        fit(replace(config, run_dir=config.run_dir + "2"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (dict(model="ThinResNet35"), "ThinResNet3"),
        (dict(loss="amsoftmaxx"), "(?i)amsoftmax"),
        (dict(optimizer="adamx"), "did you mean adam"),
        (dict(scheduler="steplrx"), "did you mean steplr"),
        (dict(num_classes=3), "12 identities, more than num_classes"),
        (dict(batch_size=13), "set batch_size to 12"),
        (dict(loss="triplet"), "set images_per_class"),
        (dict(images_per_class=9), "images_per_class.* to 6 or less"),
        (dict(train_dir="/nowhere"), "does not exist"),
        (dict(device="cuda:77"), "no device|no GPU"),
        (dict(initial_weights="/nowhere.safetensors"), "does not exist"),
        (dict(plugin="/nowhere.py"), "does not exist"),
    ],
)
def test_settings_that_cannot_work_are_one_clear_line_before_training(config, changes, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        fit(replace(config, **changes))
    assert "\n" not in str(caught.value)
    assert not RunFolder(config.run_dir).state_file.exists()


def test_one_identity_is_one_clear_line(config, tmp_path):
    with pytest.raises(UserError, match="one identity"):
        fit(replace(config, train_dir=str(make_faces(tmp_path / "one", 1, 9))))


def test_weights_of_another_model_are_one_clear_line_before_training(config):
    start = fit(replace(config, run_dir=config.run_dir + "-start", max_epoch=1)).last_weights
    with pytest.raises(UserError, match="checkpoint of another model"):
        fit(replace(config, model="IResNet18", initial_weights=str(start)))
    assert not RunFolder(config.run_dir).state_file.exists()


def test_people_with_too_few_images_are_left_out_and_counted(config, tmp_path, capsys):
    root = make_faces(tmp_path / "faces", 12, 6)
    make_faces(root, 2, 1, seed=9)
    config = replace(config, train_dir=str(root), images_per_class=2, max_epoch=1)
    fit(config)
    assert "2 of 14 identities have fewer than 2 images and are left out" in capsys.readouterr().out


def test_training_data_that_has_changed_is_noticed_on_resume(config, tmp_path):
    root = make_faces(tmp_path / "faces", 12, 6)
    config = replace(config, train_dir=str(root), max_epoch=1)
    fit(config)
    make_faces(root, 1, 6, seed=8)
    with pytest.raises(UserError, match=r"other settings: the pictures in train_dir \(changed\)"):
        fit(replace(config, max_epoch=2))


def test_a_renamed_identity_is_noticed_on_resume(config, tmp_path):
    """It would give other people its labels."""
    root = make_faces(tmp_path / "faces", 12, 6)
    config = replace(config, train_dir=str(root), max_epoch=1)
    fit(config)
    first = sorted(root.iterdir())[0]
    first.rename(root / "zz")
    with pytest.raises(UserError, match="the pictures in train_dir"):
        fit(replace(config, max_epoch=2))
    (root / "zz").rename(first)
    assert len(fit(replace(config, max_epoch=2)).rows) == 2


def test_a_finished_run_may_leave_its_optimizer_and_is_still_known(config, capsys):
    config = replace(config, max_epoch=1, drop_optimizer=True)
    result, state = fit(config), RunFolder(config.run_dir).state_file
    assert state.stat().st_size < 10_000
    again = fit(replace(config, drop_optimizer=False))
    assert again.rows == result.rows and "1 epochs are trained" in capsys.readouterr().out
    with pytest.raises(UserError, match="has finished without its optimizer .*initial_weights: "):
        fit(replace(config, max_epoch=2))


def test_metrics_that_a_kill_left_behind_are_written_again(config):
    result = fit(replace(config, max_epoch=2))
    file = result.run_dir / "metrics.csv"
    whole = file.read_text()
    file.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert len(fit(replace(config, max_epoch=2)).rows) == 2
    assert file.read_text() == whole


def test_no_chunk_is_too_small_for_batch_norm(config):
    """12 images, 11 at once: two chunks of 6, not one of 11 and one of 1."""
    assert len(fit(replace(config, images_at_once=11, max_epoch=1)).rows) == 1
    assert len(
        fit(replace(config, images_at_once=1, max_epoch=1, run_dir=config.run_dir + "1")).rows
    )


def test_a_network_with_one_layer_under_two_names_is_saved_and_used(config, tmp_path):
    plugin = own_code(
        tmp_path,
        """
        @MODELS.register("own")
        class Own(Small):
            def __init__(self, embedding_size):
                super().__init__(embedding_size)
                self.again = self.fc
        """,
    )
    result = fit(replace(config, plugin=plugin, model="own", max_epoch=1))
    network, _ = load_weights(result.last_weights)
    assert torch.equal(network.again.weight, network.fc.weight)


def test_a_network_that_was_changed_between_two_runs_is_one_clear_line(config, tmp_path):
    text = """
        @MODELS.register("own")
        class Own(Small):
            def __init__(self, embedding_size):
                super().__init__(embedding_size)
                self.bias = torch.nn.Parameter(torch.zeros(LENGTH))

            def forward(self, images):
                return super().forward(images) + self.bias
    """
    config = replace(config, model="own", max_epoch=1)
    fit(replace(config, plugin=own_code(tmp_path, text.replace("LENGTH", "1"))))
    changed = own_code(tmp_path, text.replace("LENGTH", "embedding_size"))
    with pytest.raises(
        UserError, match=r"other settings: the code of the model own \(Python"
    ) as caught:
        fit(replace(config, plugin=changed, max_epoch=2))
    assert "\n" not in str(caught.value)


def test_a_plugin_brings_a_loss_of_ones_own(config, tmp_path):
    plugin = tmp_path / "my_losses.py"
    plugin.write_text(
        textwrap.dedent("""
        import torch
        from labkit.losses import EmbeddingLoss, LossOutput
        from labkit.registry import LOSSES

        @LOSSES.register("pull_together")
        class PullTogether(EmbeddingLoss):
            min_images_per_class = 2

            def compute(self, embeddings, labels):
                spread = (embeddings - embeddings.mean(dim=1, keepdim=True)).square().mean()
                return LossOutput(spread, None)
        """)
    )
    config = replace(config, plugin=str(plugin), loss="pull_together", images_per_class=2)
    rows = fit(replace(config, max_epoch=2)).rows
    plugin.write_text(plugin.read_text() + "\n# only a comment\n")
    assert fit(replace(config, max_epoch=2)).rows == rows
    plugin.write_text(plugin.read_text().replace(".square()", ".abs()"))
    for epochs in (2, 3):
        with pytest.raises(UserError, match="other settings: the code of the loss pull_together"):
            fit(replace(config, max_epoch=epochs))
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert rows[0]["train_accuracy"] is None

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from labkit.checkpoint import (
    RunFolder,
    load_initial_weights,
    load_weights,
    read_metrics,
    save_weights,
)
from labkit.config import TrainConfig
from labkit.models import InputSpec, build_model
from labkit.utils import UserError

SPEC = InputSpec(image_size=48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = build_model("ThinResNet34", 16)
    path = tmp_path / "net.safetensors"
    save_weights(path, model, model_name="ThinResNet34", embedding_size=16, input_spec=SPEC)
    return path, model


def test_weights_carry_all_that_is_needed_to_use_them(weights):
    path, model = weights
    loaded, info = load_weights(path)
    assert (info.model, info.embedding_size, info.input) == ("ThinResNet34", 16, SPEC)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "foreign"])
def test_a_file_that_is_no_weights_file_is_one_clear_line(weights, tmp_path, damage):
    path, _ = weights
    if damage == "missing":
        path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    if damage == "foreign":
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"net\.safetensors"):
        load_weights(path)


@pytest.mark.parametrize(
    "about",
    [
        "no JSON",
        "[]",
        dict(embedding_size="16"),
        dict(embedding_size=-1),
        dict(image_size=48.0),
        dict(image_size=None),
        dict(mean=0.5),
        dict(mean=[0.1, 0.2]),
        dict(std=["a", "b", "c"]),
        dict(std=[0.4, 0.0, 0.6]),
        dict(std=[0.4, float("nan"), 0.6]),
    ],
)
def test_weights_that_say_something_wrong_of_themselves_are_one_clear_line(weights, about):
    path, model = weights
    right = dict(model="ThinResNet34", embedding_size=16, image_size=48, mean=SPEC.mean)
    text = about if isinstance(about, str) else json.dumps(right | dict(std=SPEC.std) | about)
    save_file(model.state_dict(), path, metadata={"facelab": text})
    with pytest.raises(UserError, match=r"net\.safetensors is not a weights file .* wrong") as no:
        load_weights(path)
    assert "\n" not in str(no.value)


def test_a_partial_load_is_reported(weights):
    path, _ = weights
    report = load_initial_weights(build_model("ThinResNet34", 32), path)
    assert report.endswith("tensors loaded; 2 of another shape (fc.weight, fc.bias)")


def test_weights_of_another_model_are_refused(weights):
    path, _ = weights
    with pytest.raises(UserError, match="checkpoint of another model"):
        load_initial_weights(build_model("IResNet18", 16), path)


def test_other_settings_are_named_and_free_ones_are_not(tmp_path):
    config = TrainConfig(run_dir=str(tmp_path / "run"), lr=0.01)
    folder = RunFolder(config.run_dir)
    with folder.open(config):
        folder.save_state({})
    with folder.open(replace(config, max_epoch=99, workers=3, device="cpu")):
        pass
    with pytest.raises(UserError, match=r"made with other settings: lr \(0.01, now 0.02\)"):
        with folder.open(replace(config, lr=0.02)):
            pass


def test_a_first_command_with_a_mistake_can_be_given_again_without_it(tmp_path):
    config = TrainConfig(run_dir=str(tmp_path / "run"), loss="amsofmax")
    folder = RunFolder(config.run_dir)
    with folder.open(config):
        pass
    with folder.open(replace(config, loss="amsoftmax")):
        assert TrainConfig.from_yaml(folder.config_file).loss == "amsoftmax"


def test_two_runs_cannot_share_a_folder(tmp_path):
    script = f"from labkit.utils import folder_lock\nfolder_lock({str(tmp_path)!r}).__enter__()"
    with RunFolder(tmp_path).open(TrainConfig()):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "another run is writing to" in done.stderr
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_damaged_state_is_one_clear_line(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.load_state() is None
    folder.save_state({"x": torch.ones(2)})
    assert torch.equal(folder.load_state()["x"], torch.ones(2))
    for damaged in (folder.state_file.read_bytes()[:300], b"hello, this is text", b""):
        folder.state_file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"state\.pt is damaged: delete .* to start over$"):
            folder.load_state()
    folder.state_file.unlink()
    folder.state_file.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*state\.pt: is a directory$"):
        folder.load_state()
    folder.state_file.rmdir()
    folder.state_file.write_bytes(b"")
    folder.best.touch()
    save_weights(folder.last, torch.nn.Linear(2, 2), "Linear", 2, SPEC)
    with pytest.raises(UserError, match="weights that are whole: .*last.safetensors") as caught:
        folder.load_state()
    assert "best.safetensors" not in str(caught.value)


def test_metrics_that_were_not_measured_stay_empty(tmp_path):
    row = dict(
        epoch=1,
        step=2,
        lr=0.1,
        train_loss=3.0,
        train_accuracy=None,
        val_eer=None,
        images_per_second=9.0,
        seconds=1.0,
    )
    folder = RunFolder(tmp_path)
    folder.write_metrics([row])
    assert read_metrics(folder.metrics_file) == [row]
    with pytest.raises(UserError, match="has the run begun"):
        read_metrics(tmp_path / "nothing.csv")

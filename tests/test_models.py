import os
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit.checkpoint import load_initial_weights, load_voxceleb_model, load_weights
from labkit.models import (
    InputSpec,
    ThinResNet34,
    build_model,
    count_parameters,
    describe,
    freeze_backbone,
)
from labkit.registry import MODELS
from labkit.utils import UserError

THIN = dict(ThinResNet34=(2, 3, 3, 3), ThinResNet50=(3, 4, 6, 3), ThinResNet50V2=(3, 4, 6, 3))
BUILT_IN = [name for name in MODELS.names() if MODELS.get(name).__module__ == "labkit.models"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ThinResNet34", 4_897_776),
        ("ThinResNet50", 6_007_746),
        ("ThinResNet50V2", 12_354_722),
        ("IResNet18", 24_025_600),
        ("IResNet34", 34_139_328),
        ("IResNet50", 43_590_848),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        assert count_parameters(build_model(name, 512)) == count


@pytest.mark.parametrize("name", ["ResNet18", "ResNet34", "ResNet50"])
def test_resnets_are_torchvisions_with_an_embedding_layer(name):
    import torchvision

    with torch.device("meta"):
        ours = build_model(name, 99).state_dict()
        theirs = getattr(torchvision.models, name.lower())(num_classes=99).state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_network_embeds_images_from_48_to_224_pixels(name):
    with torch.device("meta"), torch.no_grad():
        model = build_model(name, 32)
        for image_size in (48, 224):
            assert model(torch.empty(2, 3, image_size, image_size)).shape == (2, 32)


@pytest.mark.parametrize("name", ["ThinResNet34", "ResNet18", "IResNet18"])
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    model = build_model(name, 16)
    model(torch.randn(2, 3, 48, 48)).square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_networks_are_repeatable_from_a_seed_under_any_spelling():
    torch.manual_seed(5)
    a = build_model("ThinResNet34", 8).state_dict()
    torch.manual_seed(5)
    b = build_model("thinresnet_34", 8).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    for name in ("ThinResNet50_V2", "iResNet34", "resnet18"):  # as the VoxCeleb trainer spells them
        assert name in MODELS


def test_bad_names_and_sizes_are_user_errors():
    with pytest.raises(UserError, match="unknown model 'ThinResNet3'; did you mean ThinResNet34"):
        build_model("ThinResNet3")
    with pytest.raises(UserError, match=r"cannot be made with ThinResNet34\(-3\)"):
        build_model("ThinResNet34", -3)


def test_description_has_shapes_and_parameters_and_leaves_the_model_alone():
    model = ThinResNet34(512).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rows = [line.split() for line in describe(model, 64).splitlines()]
    assert rows[1] == "conv1 48 × 32 × 32 7,056".split()
    assert [row[0] for row in rows[5:9]] == ["layer1", "layer2", "layer3", "layer4"]
    assert " ".join(rows[8][1:6]) == "256 × 2 × 2"
    assert rows[-1] == ["total", "4,897,776"]
    assert sum(int(row[-1].replace(",", "")) for row in rows[1:-1]) == 4_897_776
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert model.training and model.bn1.training and len(describe(model, 64).splitlines()) == 12


def test_frozen_backbone_learns_nothing_but_the_embedding_layer():
    torch.manual_seed(0)
    model = ThinResNet34(8)
    images = torch.randn(4, 3, 48, 48)
    freeze_backbone(model.train())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}
    freeze_backbone(model, frozen=False)
    assert all(p.requires_grad for p in model.parameters()) and model.bn1.training
    model = build_model("IResNet18", 8)
    freeze_backbone(model)
    freeze_backbone(model, frozen=False)
    assert not model.features.weight.requires_grad and model.fc.weight.requires_grad
    with pytest.raises(UserError, match="no linear layer"):
        freeze_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))


def test_timm_models_ask_for_the_extra_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm:resnet18 needs the timm package; pip install"):
        build_model("timm:resnet18")


def test_timm_models_get_an_embedding_layer():
    assert build_model("timm:resnet10t", 4).eval()(torch.zeros(2, 3, 48, 48)).shape == (2, 4)
    with pytest.raises(UserError, match="timm has no model 'resnet10'; see timm"):
        build_model("timm:resnet10")


# Checkpoints of the VoxCeleb trainer.


def reference_embedding(w, blocks, images):
    """The published network on these weights, in PyTorch's functions alone."""

    def norm(x, key):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(w[f"{key}.{name}"] for name in names))

    x = F.conv2d(images, w["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(norm(x, "bn1")), 3, stride=2, padding=1)
    for stage, n in enumerate(blocks, start=1):
        for i in range(n):
            key, stride = f"layer{stage}.{i}", 2 if i == 0 and stage > 1 else 1
            y = F.conv2d(x, w[f"{key}.conv1.weight"], stride=stride, padding=1)
            y = norm(F.relu(y), f"{key}.bn1")
            y = norm(F.conv2d(y, w[f"{key}.conv2.weight"], padding=1), f"{key}.bn2")
            gate = F.linear(y.mean((2, 3)), w[f"{key}.se.fc.0.weight"], w[f"{key}.se.fc.0.bias"])
            gate = F.linear(F.relu(gate), w[f"{key}.se.fc.2.weight"], w[f"{key}.se.fc.2.bias"])
            y = y * torch.sigmoid(gate)[:, :, None, None]
            if f"{key}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{key}.downsample.0.weight"], stride=stride)
                x = norm(x, f"{key}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def write_checkpoint(path, weights, prefix="__S__.", **extra):
    torch.save({f"{prefix}{k}": v for k, v in weights.items()} | extra, path)
    return path


@pytest.mark.parametrize("name", THIN)
def test_reference_checkpoint_loads_whole_and_gives_the_same_embeddings(tmp_path, name):
    generator = torch.Generator().manual_seed(1)
    weights = build_model(name, 40).state_dict()
    for key, value in weights.items():
        if value.is_floating_point():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
        if key.endswith("running_var"):
            value.abs_().add_(0.5)
    path = write_checkpoint(tmp_path / "m.model", weights, **{"__L__.W": torch.ones(2)})
    model = load_voxceleb_model(path)
    assert type(model).__name__ == name and not model.training
    assert set(model.state_dict()) == set(weights)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        got, expected = model(images), reference_embedding(weights, THIN[name], images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(got / expected.norm(), expected / expected.norm(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("ThinResNet50V2", "__S__."),
        ("ResNet18", "module.__S__."),
        ("ThinResNet34", ""),
        ("ThinResNet34", "module."),
        ("ThinResNet34", "_orig_mod.module."),
        ("ThinResNet34", "model."),
    ],
)
@pytest.mark.parametrize("within", [None, "state_dict", "model", "state_dict_backbone"])
def test_the_network_in_a_checkpoint_is_found_by_its_layers(tmp_path, name, prefix, within):
    weights = build_model(name, 12).state_dict()
    state = {f"{prefix}{key}": value for key, value in weights.items()}
    state["__L__.fc.weight"] = torch.zeros(7, 12)
    path = tmp_path / "m.ckpt"
    torch.save({within: state, "epoch": 3, "optimizer_states": []} if within else state, path)
    model, info = load_weights(path)
    assert type(model).__name__ == name and torch.equal(model.fc.weight, weights["fc.weight"])
    assert (info.model, info.embedding_size, info.input) == (name, 12, InputSpec())
    fresh = build_model(name, 12)
    assert load_initial_weights(fresh, path) == f"{len(weights)} tensors loaded"
    assert torch.equal(fresh.fc.weight, weights["fc.weight"])


def test_a_checkpoint_that_lacks_a_layer_fits_no_network(tmp_path):
    whole = ThinResNet34(8).state_dict()
    incomplete = {key: whole[key] for key in whole if key != "layer3.1.bn2.running_var"}
    path = write_checkpoint(tmp_path / "m.model", incomplete)
    with pytest.raises(UserError, match="fits none of ThinResNet34, "):
        load_voxceleb_model(path)


class RunsCode:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path, zipped):
    path = tmp_path / "evil.model"
    state = {"__S__.fc.weight": torch.zeros(2, 2), "__L__.W": RunsCode(tmp_path / "ran")}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="refused, because it holds more than weights") as caught:
        load_voxceleb_model(path)
    assert "\n" not in str(caught.value)
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="refused, because it holds more than weights"):
        load_voxceleb_model(path)
    path.write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    with pytest.raises(UserError):
        load_voxceleb_model(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: no such file"),
        (b"", "not a PyTorch checkpoint"),
        (b"just some text\n", "not a PyTorch checkpoint"),
        (b"PK\x03\x04 cut off", "not a PyTorch checkpoint"),
        (bytes(range(256)), "not a PyTorch checkpoint"),
        (torch.zeros(3), "holds no state dict but a Tensor"),
        ({"fc.weight": torch.zeros(2, 2)}, "fits none of "),
        ({"__S__.conv1.weight": torch.zeros(3)}, "no layer fc"),
    ],
    ids="missing empty text zip noise tensor unprefixed headless".split(),
)
def test_files_that_are_no_checkpoints_are_told_apart(tmp_path, content, message):
    path = tmp_path / "m.model"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_voxceleb_model(path)


def test_half_a_checkpoint_is_told(tmp_path):
    path = write_checkpoint(tmp_path / "m.model", ThinResNet34(8).state_dict())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="not a PyTorch checkpoint"):
        load_voxceleb_model(path)

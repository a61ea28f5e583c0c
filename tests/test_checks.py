"""Mistakes in a network or a loss of one's own are told before training begins."""

import copy

import pytest
import torch
from runs import own_code

from labkit.checks import build_and_check_loss, check_network_and_loss
from labkit.config import TrainConfig
from labkit.losses import AMSoftmax
from labkit.models import InputSpec, build_model
from labkit.registry import load_plugin
from labkit.utils import UserError

IDENTITIES = 12


def settings(**changes) -> TrainConfig:
    return TrainConfig(
        **dict(image_size=32, embedding_size=16, batch_size=6, loss="proto") | changes
    )


def load_own(tmp_path, text: str) -> str:
    path = own_code(tmp_path, text)
    load_plugin(path)
    return path


def check(config: TrainConfig) -> bool:
    network = build_model(config.model, config.embedding_size)
    loss = build_and_check_loss(config, IDENTITIES)
    return check_network_and_loss(network, loss, InputSpec(config.image_size), config)


NETWORK = '@MODELS.register("own")\nclass Own(Small):\n'
LOSS = '@LOSSES.register("own")\nclass Own(torch.nn.Module):\n'
FORWARD = "    def forward(self, embeddings, labels):\n        return "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("    def __init__(self):\n        pass\n", r"cannot be made with own\(16\): TypeError"),
        (
            "    def forward(self, images):\n        return self.fc(images[:, 0].flatten(1))\n",
            r"does not work on images of 32 px on line 17 of .*own\.py: RuntimeError: .*shape",
        ),
        (
            "    def forward(self, images):\n        return super().forward(images)[0]\n",
            r"turn 2 images into a tensor of shape \(2, 16\), it gives a tensor of shape \(16,\)",
        ),
        ("    def forward(self, images):\n        return None\n", r"it gives NoneType\(None\)"),
    ],
)
def test_a_mistake_in_a_network_is_one_line_that_names_it(tmp_path, text, message):
    plugin = load_own(tmp_path, NETWORK + text)
    with pytest.raises(UserError, match=f"^the network own .*{message}") as caught:
        check(settings(model="own", loss="softmax", plugin=plugin))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "embeddings @ labels",
            r"embeddings of shape \(6, 1, 16\) on line 17 of .*own\.py: RuntimeE",
        ),
        ("embeddings.mean()", r"must return LossOutput\(.*; it gives a tensor of shape \(\)$"),
        (
            "LossOutput(embeddings.mean(dim=(1, 2)), None)",
            r"gives LossOutput\(a .* shape \(6,\), None",
        ),
        (
            "LossOutput(embeddings.detach().mean(), None)",
            r"of shape \(\) without a gradient, NoneT",
        ),
        ("LossOutput(embeddings.mean(), embeddings[:, 0, 0])", r"shape \(\), a .* shape \(6,\)\)"),
        (
            "    def __init__(self, sharpness):\n        pass",
            "needs sharpness: no setting has that name, so give it a",
        ),
        (
            "    def __init__(self):\n        torch.ones(2) @ 3",
            r"cannot be made on line 17 of .*own\.py",
        ),
        ("    min_images_per_class = 3", r"set images_per_class \(nPerClass\) to 3 or more"),
    ],
)
def test_a_mistake_in_a_loss_is_one_line_that_names_it(tmp_path, text, message):
    plugin = load_own(tmp_path, LOSS + (text if text.startswith(" ") else FORWARD + text) + "\n")
    with pytest.raises(UserError, match=f"^the loss own .*{message}") as caught:
        check(settings(model="small", loss="own", plugin=plugin))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "what"),
    [("embeddings.sum() * float('nan')", "value"), ("(embeddings * 0).sum().sqrt()", "gradient")],
)
def test_a_loss_without_numbers_is_told_before_the_learning_rate_is_blamed(tmp_path, formula, what):
    plugin = load_own(tmp_path, f"{LOSS}{FORWARD}LossOutput({formula}, None)\n")
    with pytest.raises(UserError, match=f"^the loss own has a {what} that is no number") as caught:
        check(settings(model="small", loss="own", plugin=plugin))
    assert "lr" not in str(caught.value)


def test_a_network_that_cannot_take_the_image_size_is_told():
    with pytest.raises(UserError, match="timm:levit_128s does not work on images of 32 px: "):
        check(settings(model="timm:levit_128s", images_per_class=2))


def test_settings_and_the_number_of_identities_reach_the_loss():
    loss = build_and_check_loss(settings(loss="amsoftmax", margin=0.2), IDENTITIES)
    assert isinstance(loss, AMSoftmax) and (loss.margin, loss.scale) == (0.2, 30)
    assert loss.weight.shape == (IDENTITIES, 16)
    more = build_and_check_loss(settings(loss="amsoftmax", num_classes=20), IDENTITIES)
    assert more.weight.shape == (20, 16)


def test_the_check_leaves_network_loss_and_random_state_as_they_were(tmp_path):
    load_own(
        tmp_path,
        """
        @LOSSES.register("own")
        class Own(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("centre", torch.zeros(16))
                self.norm = torch.nn.BatchNorm1d(16)

            def forward(self, embeddings, labels):
                self.centre = 0.9 * self.centre + 0.1 * embeddings.detach().mean((0, 1))
                x = self.norm(embeddings.flatten(0, 1)) - self.centre
                return LossOutput((x + torch.rand(16)).square().mean(), 50.0)
        """,
    )
    config = settings(loss="own")
    network, loss = build_model("ThinResNet34", 16), build_and_check_loss(config, IDENTITIES)
    before = copy.deepcopy([network.state_dict(), loss.state_dict()])
    random_state = torch.get_rng_state()
    assert check_network_and_loss(network, loss, InputSpec(32), config) is False
    assert torch.equal(torch.get_rng_state(), random_state)
    for module, state in zip((network, loss), before):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("unused_in", ["model", "loss"])
def test_parameters_that_take_no_part_are_noticed(tmp_path, unused_in):
    load_own(
        tmp_path,
        """
        @MODELS.register("own")
        class OwnNetwork(Small):
            def __init__(self, embedding_size):
                super().__init__(embedding_size)
                self.spare = torch.nn.Linear(2, 2)

        @LOSSES.register("own")
        class OwnLoss(EmbeddingLoss):
            def __init__(self):
                super().__init__()
                self.spare = torch.nn.Parameter(torch.zeros(2))

            def compute(self, embeddings, labels):
                return LossOutput(embeddings.square().mean(), None)
        """,
    )
    config = settings(model="small", loss="softmax")
    assert check(config) is False
    setattr(config, unused_in, "own")
    assert check(config) is True

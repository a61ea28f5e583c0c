"""Embedding networks: a batch of normalized images in, one vector per image out.

    model = build_model("ThinResNet34", embedding_size=512)
    embeddings = model(images)          # (n, 3, h, w) float -> (n, 512) float

Embeddings are not normalized to unit length: losses and `Embedder` do that where they need it.
Every network here takes images of any size from 48 to 224 pixels. Layers have the names that the
VoxCeleb trainer gives them, so that its checkpoints load. Your own network is a class under
`@MODELS.register("mine")` whose constructor takes `embedding_size`.
"""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from labkit.registry import MODELS
from labkit.utils import UserError, short_reason


@dataclass(frozen=True)
class InputSpec:
    """The input that a network expects; it travels with the weights.

    image_size: side of the square input, in pixels. mean, std: per channel (red, green, blue), for
    pixels in 0 to 1: (pixel - mean) / std.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def normalize(pixels: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Turn uint8 (n, 3, h, w) into the float32 that a network expects, on the same device."""
    mean, std = torch.tensor([spec.mean, spec.std], device=pixels.device).view(2, 3, 1, 1) * 255
    return pixels.to(torch.float32, copy=True).sub_(mean).div_(std)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in 0 to 1, computed from all channels' means.

    Source: Hu et al., Squeeze-and-Excitation Networks, 2018 (arXiv:1709.01507).
    """

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class ThinBlock(nn.Module):
    """conv → ReLU → batch norm → conv → batch norm → squeeze-and-excitation, plus the input."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.relu(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.relu(y + self.downsample(x))


@MODELS.register("ThinResNet34")
class ThinResNet34(nn.Module):
    """A residual network with few channels: 4,897,776 parameters at 512 outputs.

    A 7×7 stem and a 3×3 max-pool of stride 2 each, four stages of `ThinBlock` with strides 1, 2, 2,
    2, global average pool, one linear layer. Source: the fast ResNet of Chung et al., In defence of
    metric learning for speaker recognition, 2020 (arXiv:2003.11982), with an image stem.
    """

    blocks = (2, 3, 3, 3)
    channels = (48, 96, 128, 256)

    def __init__(self, embedding_size: int = 512):
        super().__init__()
        first = self.channels[0]
        self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = _stages(ThinBlock, self.blocks, self.channels, first_stride=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels[-1], embedding_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # As the largest of the rectified is the largest, rectified: a quarter of the work.
        x = self.relu(self.maxpool(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


@MODELS.register("ThinResNet50")
class ThinResNet50(ThinResNet34):
    """`ThinResNet34` with more blocks: 6,007,746 parameters at 512 outputs."""

    blocks = (3, 4, 6, 3)


@MODELS.register("ThinResNet50V2")
class ThinResNet50V2(ThinResNet34):
    """`ThinResNet34` with more blocks and channels: 12,354,722 parameters at 512 outputs."""

    blocks = (3, 4, 6, 3)
    channels = (48, 96, 192, 384)


@MODELS.register("ResNet18")
class ResNet18(ResNet):
    """torchvision's ResNet18 (He et al., 2016, arXiv:1512.03385); its classifier embeds."""

    block, blocks = BasicBlock, (2, 2, 2, 2)

    def __init__(self, embedding_size: int = 512):
        super().__init__(self.block, self.blocks, num_classes=embedding_size)


@MODELS.register("ResNet34")
class ResNet34(ResNet18):
    """`ResNet18` with [3, 4, 6, 3] blocks."""

    blocks = (3, 4, 6, 3)


@MODELS.register("ResNet50")
class ResNet50(ResNet34):
    """`ResNet34` with bottleneck blocks."""

    block = Bottleneck


class IBlock(nn.Module):
    """batch norm → conv → batch norm → PReLU → conv → batch norm, plus the input, no last ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + self.downsample(x)


@MODELS.register("IResNet18")
class IResNet18(nn.Module):
    """ArcFace's improved residual network.

    A 3×3 stem at full resolution, four stages of 64 to 512 channels with stride 2 each, a 7×7 map
    (by itself for images of 112 pixels, else by average pooling), one linear layer and batch norm.

    Source: Deng et al., ArcFace, 2019 (arXiv:1801.07698), section 3.1, the BN-FC-BN output of
    Han et al., Deep Pyramidal Residual Networks, 2017 (arXiv:1610.02915).
    """

    blocks = (2, 2, 2, 2)

    def __init__(self, embedding_size: int = 512):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        stages = _stages(IBlock, self.blocks, (64, 128, 256, 512), first_stride=2)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(512)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.fc = nn.Linear(512 * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.avgpool(self.bn2(x)).flatten(1)))


@MODELS.register("IResNet34")
class IResNet34(IResNet18):
    """`IResNet18` with [3, 4, 6, 3] blocks."""

    blocks = (3, 4, 6, 3)


@MODELS.register("IResNet50")
class IResNet50(IResNet18):
    """`IResNet18` with [3, 4, 14, 3] blocks."""

    blocks = (3, 4, 14, 3)


def timm_model(name: str):
    """Return a builder of timm's network with random weights and a linear embedding layer."""
    try:
        import timm
    except ImportError:
        what = "needs the timm package; pip install 'kstar-facelab[timm]'"
        raise UserError(f"timm:{name} {what}") from None
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}; see timm.list_models('*{name}*')")

    def build(embedding_size: int = 512) -> nn.Module:
        try:  # transformers made for one image size are asked to take any; a few cannot
            return timm.create_model(name, num_classes=embedding_size, dynamic_img_size=True)
        except TypeError:
            return timm.create_model(name, num_classes=embedding_size)

    return build


MODELS.families["timm"] = timm_model


def build_model(name: str, embedding_size: int = 512) -> nn.Module:
    """Build a network by its name, with new random weights from PyTorch's global generator.

    The name is one of `MODELS.names()`, or `timm:NAME` with the extra. Returns a module in training
    mode that maps images (n, 3, h, w), float, to (n, embedding_size). Raises UserError for an
    unknown name and a network that cannot be built.
    """
    make = MODELS.get(name)
    try:
        return make(embedding_size)
    except Exception as error:
        why = f"cannot be made with {name}({embedding_size}): {short_reason(error)}"
        raise UserError(f"the network {name} {why}") from error


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def describe(model: nn.Module, image_size: int = 224) -> str:
    """Return a table of a network's stages, in the order in which an image passes them.

    Their names, output shapes (channels × height × width), parameters. The network stays as it was.
    """
    rows = [f"{'stage':<12}{'output':>18}{'parameters':>14}"]

    def note(name, stage, inputs, output):
        shape = " × ".join(map(str, getattr(output, "shape", ())[1:]))
        rows.append(f"{name:<12}{shape:>18}{count_parameters(stage):>14,}")

    probe = copy.deepcopy(model).eval()
    for name, stage in probe.named_children():
        stage.register_forward_hook(partial(note, name))
    probe(torch.zeros(1, 3, image_size, image_size).to(next(probe.parameters())))
    return "\n".join([*rows, f"{'total':<30}{count_parameters(model):>14,}"])


def freeze_backbone(model: nn.Module, frozen: bool = True) -> None:
    """Freeze (or free) every layer but the embedding layer: the last linear one and what follows.

    Frozen layers get no gradient, frozen batch norms keep their running statistics; call this after
    `model.train()`, which makes them update again. Raises UserError without a linear layer.
    """
    layers = [m for m in model.modules() if not list(m.children())]
    linear = [i for i, m in enumerate(layers) if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(f"{type(model).__name__} has no linear layer to train on a frozen backbone")
    head = {parameter for layer in layers[linear[-1] :] for parameter in layer.parameters()}
    for layer in layers[: linear[-1]]:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.train(model.training and not frozen)
    for parameter in model.parameters():
        if parameter not in head:
            parameter.requires_grad_(not frozen)


def _stages(block, blocks, channels, first_stride):
    before = channels[0]
    for count, after, stride in zip(blocks, channels, (first_stride, 2, 2, 2)):
        rest = [block(after, after) for _ in range(count - 1)]
        yield nn.Sequential(block(before, after, stride), *rest)
        before = after


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    convolution = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))

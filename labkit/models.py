"""Embedding networks: a batch of normalized images in, one vector per image out.

    model = build_model("ThinResNet34", embedding_size=512)
    embeddings = model(images)          # (n, 3, h, w) float -> (n, 512) float

Embeddings are not normalized to unit length: losses and `Embedder` do that where they need it.
Every network here takes images of any size from 48 to 224 pixels. Layers carry the names that the
reference trainer gives them, so that its checkpoints load.

Your own network is a class whose constructor takes `embedding_size`, under
`@MODELS.register("mine")`.
"""

import difflib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from labkit.registry import MODELS
from labkit.utils import UserError, short_reason


@dataclass(frozen=True)
class InputSpec:
    """What a network needs of its input; travels with the weights.

    Attributes:
        image_size: side of the square input, in pixels.
        mean, std: per channel (red, green, blue), for pixels in 0 to 1: (pixel - mean) / std.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def normalize(pixels: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """uint8 (n, 3, h, w) to the float32 that a network expects, on the device of `pixels`."""
    shape = (1, 3, 1, 1)
    mean = torch.tensor(spec.mean, device=pixels.device).view(shape) * 255
    std = torch.tensor(spec.std, device=pixels.device).view(shape) * 255
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
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ThinResNet(nn.Module):
    """A residual network with few channels; subclasses say how many blocks and channels.

    Stem of 7×7 stride 2 and 3×3 max-pool of stride 2, four stages of `ThinBlock` with strides
    1, 2, 2, 2, global average pool, one linear layer.

    Source: the fast ResNet of Chung et al., In defence of metric learning for speaker
    recognition, 2020 (arXiv:2003.11982), with an image stem.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]

    def __init__(self, embedding_size: int = 512):
        super().__init__()
        first = self.channels[0]
        self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i, stage in enumerate(_stages(ThinBlock, self.blocks, self.channels, first_stride=1)):
            setattr(self, f"layer{i + 1}", stage)
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


@MODELS.register("ThinResNet34")
class ThinResNet34(ThinResNet):
    """Blocks [2, 3, 3, 3], channels [48, 96, 128, 256]: 4,897,776 parameters at 512 outputs."""

    blocks = (2, 3, 3, 3)
    channels = (48, 96, 128, 256)


@MODELS.register("ThinResNet50")
class ThinResNet50(ThinResNet):
    """Blocks [3, 4, 6, 3], channels [48, 96, 128, 256]: 6,007,746 parameters at 512 outputs."""

    blocks = (3, 4, 6, 3)
    channels = (48, 96, 128, 256)


@MODELS.register("ThinResNet50V2")
class ThinResNet50V2(ThinResNet):
    """Blocks [3, 4, 6, 3], channels [48, 96, 192, 384]: 12,354,722 parameters at 512 outputs."""

    blocks = (3, 4, 6, 3)
    channels = (48, 96, 192, 384)


@MODELS.register("ResNet18")
class ResNet18(ResNet):
    """torchvision's ResNet18 (He et al., 2016, arXiv:1512.03385); its classifier embeds."""

    def __init__(self, embedding_size: int = 512):
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=embedding_size)


@MODELS.register("ResNet34")
class ResNet34(ResNet):
    """torchvision's ResNet34; its classifier embeds."""

    def __init__(self, embedding_size: int = 512):
        super().__init__(BasicBlock, [3, 4, 6, 3], num_classes=embedding_size)


@MODELS.register("ResNet50")
class ResNet50(ResNet):
    """torchvision's ResNet50 with bottleneck blocks; its classifier embeds."""

    def __init__(self, embedding_size: int = 512):
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=embedding_size)


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
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """ArcFace's improved residual network; subclasses say how many blocks per stage.

    A 3×3 stem at full resolution, four stages of 64 to 512 channels with stride 2 each, a 7×7 map,
    one linear layer and batch norm of the embedding. The map is 7×7 by itself for images of
    112 pixels, the size it is made for; at other sizes it is brought to 7×7 by average pooling.

    Source: Deng et al., ArcFace, 2019 (arXiv:1801.07698), section 3.1, the BN-FC-BN output of
    Han et al., Deep Pyramidal Residual Networks, 2017 (arXiv:1610.02915).
    """

    blocks: tuple[int, ...]

    def __init__(self, embedding_size: int = 512):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        for i, stage in enumerate(_stages(IBlock, self.blocks, (64, 128, 256, 512))):
            setattr(self, f"layer{i + 1}", stage)
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


@MODELS.register("IResNet18")
class IResNet18(IResNet):
    """`IResNet` with [2, 2, 2, 2] blocks."""

    blocks = (2, 2, 2, 2)


@MODELS.register("IResNet34")
class IResNet34(IResNet):
    """`IResNet` with [3, 4, 6, 3] blocks."""

    blocks = (3, 4, 6, 3)


@MODELS.register("IResNet50")
class IResNet50(IResNet):
    """`IResNet` with [3, 4, 14, 3] blocks."""

    blocks = (3, 4, 14, 3)


@MODELS.register_family("timm")
def timm_model(name: str):
    """A builder for `timm:NAME`: that network with random weights and a linear embedding layer.

    Transformers made for one image size are asked to take any; a few cannot.

    Raises:
        UserError: timm is not installed, or knows no such network.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"the model timm:{name} needs the timm package; pip install 'kstar-facelab[timm]'"
        ) from None
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise UserError(
            f"timm has no model {name!r}; "
            + (f"some of its names: {near}" if near else "see timm.list_models()")
        )

    def build(embedding_size: int = 512) -> nn.Module:
        try:
            return timm.create_model(name, num_classes=embedding_size, dynamic_img_size=True)
        except TypeError:
            return timm.create_model(name, num_classes=embedding_size)

    return build


def build_model(name: str, embedding_size: int = 512) -> nn.Module:
    """A network by its name, with new random weights from PyTorch's global generator.

    Args:
        name: a name in `MODELS` (see `MODELS.names()`), or `timm:NAME` with the extra.
        embedding_size: numbers per embedding.

    Returns:
        A module in training mode that maps images (n, 3, h, w), float, to (n, embedding_size).

    Raises:
        UserError: an unknown name, an embedding size below 1, or a network of the user's own that
            cannot be made.
    """
    if isinstance(embedding_size, bool) or not isinstance(embedding_size, int):
        raise UserError(f"embedding_size must be a whole number, not {embedding_size!r}")
    if embedding_size < 1:
        raise UserError(f"embedding_size must be 1 or more, not {embedding_size}")
    make = MODELS.get(name)
    try:
        return make(embedding_size)
    except Exception as error:
        if MODELS.is_built_in(name) or isinstance(error, UserError):
            raise
        raise UserError(
            f"the network {name} cannot be made with {name}({embedding_size}): "
            f"{short_reason(error)}"
        ) from error


def count_parameters(model: nn.Module) -> int:
    """How many numbers training can set, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


class Stage(NamedTuple):
    """One row of `describe`: a named part of a network, and its cost for one image."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


class Description(list[Stage]):
    """Stages in the order in which an image passes them; prints as a table."""

    def __str__(self) -> str:
        lines = [f"{'stage':<18}{'output':>16}{'parameters':>14}{'multiply-adds':>17}"]
        for name, shape, parameters, work in self:
            lines.append(f"{name:<18}{' × '.join(map(str, shape)):>16}{parameters:>14,}{work:>17,}")
        parameters, work = (sum(column) for column in list(zip(*self))[2:])
        return "\n".join([*lines, f"{'in all':<34}{parameters:>14,}{work:>17,}"])

    def _repr_pretty_(self, printer, cycle) -> None:
        printer.text(str(self))


@torch.no_grad()
def describe(model: nn.Module, image_size: int = 224) -> Description:
    """What each stage of a network gives out and costs, for one image.

    Args:
        model: a network; left as it was, running statistics included.
        image_size: side of the image in pixels.

    Returns:
        One `Stage` per block of layers, in the order of the image's way through them; single
        layers that follow each other are one. Its output's shape is without the batch (channels ×
        height × width); multiply-adds are those of convolutions and linear layers, where nearly
        all the work is.
    """
    stages, work = {}, {}

    def note_work(layer, inputs, output):
        # Each output number of a layer is one dot product with a weight of weight[0]'s size.
        work[layer] = work.get(layer, 0) + output.numel() * layer.weight[0].numel()

    def note_stage(name):
        def note(stage, inputs, output):
            stages[name] = (stage, tuple(output.shape[1:]))

        return note

    hooks = [child.register_forward_hook(note_stage(n)) for n, child in model.named_children()]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            hooks.append(layer.register_forward_hook(note_work))
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()
        model(torch.zeros(1, 3, image_size, image_size).to(parameter))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    table = Description()
    single_before = False
    for name, (stage, shape) in stages.items():
        row = Stage(
            name, shape, count_parameters(stage), sum(work.get(m, 0) for m in stage.modules())
        )
        single = not list(stage.children())
        if single and single_before:
            before = table.pop()
            name = f"{before.name.partition(' ')[0]} … {name}"
            row = Stage(name, shape, before.parameters + row.parameters, before[3] + row[3])
        table.append(row)
        single_before = single
    return table


def freeze_backbone(model: nn.Module, frozen: bool = True) -> int:
    """Freeze (or free) every layer but the embedding layer: the last linear one and what follows.

    Frozen layers get no gradient and their batch norms keep their running statistics. As
    `model.train()` sets batch norms learning again, call this after it.

    Returns:
        How many parameters the backbone has.

    Raises:
        UserError: the model has no linear layer, so no embedding layer can be told apart.
    """
    layers = [m for m in model.modules() if not list(m.children())]
    linear = [i for i, m in enumerate(layers) if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(f"{type(model).__name__} has no linear layer to train on a frozen backbone")
    head = {id(p) for m in layers[linear[-1] :] for p in m.parameters()}
    for module in layers[: linear[-1]]:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(model.training and not frozen)
    backbone = [p for p in model.parameters() if id(p) not in head]
    for parameter in backbone:
        parameter.requires_grad_(not frozen)
    return sum(p.numel() for p in backbone)


def _stages(block, blocks, channels, first_stride: int = 2):
    before = channels[0]
    for i, (count, after) in enumerate(zip(blocks, channels)):
        stride = first_stride if i == 0 else 2
        rest = [block(after, after) for _ in range(count - 1)]
        yield nn.Sequential(block(before, after, stride), *rest)
        before = after


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels_in == channels:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )

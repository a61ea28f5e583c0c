"""The flags of `labkit train`: readable names, and those of the reference trainer as aliases."""

import argparse
from dataclasses import fields

from labkit.config import REFERENCE_NAMES, TrainConfig, expanded

# A training flag, which is the setting of that name, and what it means.
TRAIN_FLAGS = dict(
    model="network",
    embedding_size="numbers per face",
    image_size="pixels of the network's square input",
    initial_weights="weights to start from, ours or the reference trainer's",
    freeze_epochs="epochs with all but the embedding layer held still",
    loss="loss function",
    num_classes="identities of a softmax loss; counted when left out",
    images_per_class="images of each identity in a batch",
    margin="margin of the loss; left out, 0.1, for aamsoftmax 0.5",
    scale="scale of the loss; left out, 30, for aamsoftmax 64",
    mining="negatives of the triplet loss: random, semihard or hard",
    temperature="temperature of the supcon loss",
    batch_size="identities in a batch, over all processes",
    max_images_per_class="images of an identity in an epoch, at most",
    images_at_once="images the network takes at once: less memory, same loss",
    workers="loader processes",
    optimizer="adam, adamw or sgd",
    lr="learning rate",
    weight_decay="weight decay",
    scheduler="steplr, cosine or cosine_restart",
    lr_decay="factor of steplr",
    lr_step_epochs="epochs between two steps of steplr",
    restart_epochs="epochs between two restarts of cosine_restart",
    min_lr="lowest learning rate of the cosines",
    warmup_epochs="epochs of rising learning rate at the start",
    max_epoch="epochs to train",
    val_interval="epochs between two validations",
    seed="seed of everything random",
    run_dir="run folder",
    train_dir="face folder to train on",
    train_extensions="file name endings to read, with commas between",
    val_dir="folder of the validation or test images; data/val when it is there",
    val_list="validation or test pair list; data/val_pairs.csv",
    checkpoint_minutes="minutes between two saves within an epoch",
)
TRAIN_SWITCHES = dict(
    mixed_precision="compute in bf16 or fp16 where the hardware has it",
    mirror="mirror every other training image",
    compile="compile the network with torch.compile",
    tensorboard="also write the curves for TensorBoard",
)


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Every setting under its own name and under the reference trainer's."""
    settings = {item.name: item for item in fields(TrainConfig)}
    for name, text in TRAIN_FLAGS.items():
        kind, usual = settings[name].type, settings[name].default
        kind = next(k for k in (int, float, str) if k == kind or k | None == kind)
        text += "" if usual is None else f" (default {usual})"
        parser.add_argument(*_flags(name), dest=name, type=kind, default=None, help=text)
    for name, text in TRAIN_SWITCHES.items():
        parser.add_argument(*_flags(name), dest=name, action="store_true", default=None, help=text)
    parser.add_argument("--config", metavar="FILE.yaml", help="settings; flags win over them")
    parser.add_argument(
        "--test_interval",
        type=int,
        default=None,
        help="the reference trainer's flag for both --val_interval and --lr_step_epochs",
    )
    parser.add_argument("--gpu", type=int, default=None, help="number of the GPU to use")
    parser.add_argument(
        "--eval", action="store_true", help="score --test_list with --initial_model; no training"
    )
    parser.add_argument("--output", metavar="FILE", help="score file that --eval writes")


def _flags(name: str) -> list[str]:
    return [f"--{name}", *(f"--{word}" for word, own in REFERENCE_NAMES.items() if own == name)]


def train_settings(args: argparse.Namespace) -> dict:
    """The settings that the flags of `labkit train` name, as keyword arguments of TrainConfig."""
    names = [*TRAIN_FLAGS, *TRAIN_SWITCHES, "device", "plugin", "test_interval", "gpu"]
    given = {name: getattr(args, name) for name in names}
    return expanded({name: value for name, value in given.items() if value is not None})

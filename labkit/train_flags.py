"""The flags of `labkit train`: readable names, and those of the reference trainer as aliases."""

import argparse
from dataclasses import fields

from labkit.config import TrainConfig

# A training flag, the setting it stands for, and the reference trainer's name for it.
TRAIN_FLAGS = (
    ("model", "network", ()),
    ("embedding_size", "numbers per face", ("nOut",)),
    ("image_size", "pixels of the network's square input", ()),
    (
        "initial_weights",
        "weights to start from, ours or the reference trainer's",
        ("initial_model",),
    ),
    ("freeze_epochs", "epochs with all but the embedding layer held still", ()),
    ("loss", "loss function", ("trainfunc",)),
    ("num_classes", "identities of a softmax loss; counted when left out", ("nClasses",)),
    ("images_per_class", "images of each identity in a batch", ("nPerClass",)),
    ("margin", "margin of the loss", ()),
    ("scale", "scale of the loss", ()),
    ("mining", "negatives of the triplet loss: random, semihard or hard", ()),
    ("temperature", "temperature of the supcon loss", ()),
    ("batch_size", "identities in a batch, over all processes", ()),
    ("max_images_per_class", "images of an identity in an epoch, at most", ("max_img_per_cls",)),
    ("images_at_once", "images the network takes at once: less memory, same loss", ()),
    ("workers", "loader processes", ("nDataLoaderThread",)),
    ("optimizer", "adam, adamw or sgd", ()),
    ("lr", "learning rate", ()),
    ("weight_decay", "weight decay", ()),
    ("scheduler", "steplr, cosine or cosine_restart", ()),
    ("lr_decay", "factor of steplr", ()),
    ("lr_step_epochs", "epochs between two steps of steplr", ()),
    ("restart_epochs", "epochs between two restarts of cosine_restart", ()),
    ("min_lr", "lowest learning rate of the cosines", ()),
    ("warmup_epochs", "epochs of rising learning rate at the start", ()),
    ("max_epoch", "epochs to train", ()),
    ("seed", "seed of everything random", ()),
    ("run_dir", "run folder", ("save_path",)),
    ("train_dir", "face folder to train on", ("train_path",)),
    ("train_extensions", "file name endings to read, with commas between", ("train_ext",)),
    (
        "val_dir",
        "folder of the validation or test images; data/val when it is there",
        ("test_path",),
    ),
    ("val_list", "validation or test pair list; data/val_pairs.csv", ("test_list",)),
    ("plugin", "Python file that registers models or losses of yours", ()),
    ("checkpoint_minutes", "minutes between two saves within an epoch", ()),
)
TRAIN_SWITCHES = (
    ("mixed_precision", "compute in bf16 or fp16 where the hardware has it", ("mixedprec",)),
    ("mirror", "mirror every other training image", ()),
    ("compile", "compile the network with torch.compile", ()),
    ("tensorboard", "also write the curves for TensorBoard", ()),
)


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Every setting under its own name and under the reference trainer's."""
    kinds = {item.name: item.type for item in fields(TrainConfig)}
    for name, text, aliases in TRAIN_FLAGS:
        kind = next(k for k in (int, float, str) if k == kinds[name] or k | None == kinds[name])
        flags = [f"--{word}" for word in (name, *aliases)]
        parser.add_argument(*flags, dest=name, type=kind, default=None, help=text)
    for name, text, aliases in TRAIN_SWITCHES:
        flags = [f"--{word}" for word in (name, *aliases)]
        parser.add_argument(*flags, dest=name, action="store_true", default=None, help=text)
    parser.add_argument("--config", metavar="FILE.yaml", help="settings; flags win over them")
    parser.add_argument(
        "--val_interval", type=int, default=None, help="epochs between two validations"
    )
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


def train_settings(args: argparse.Namespace) -> dict:
    """The settings that the flags of `labkit train` name, as keyword arguments of TrainConfig."""
    names = [name for name, _, _ in TRAIN_FLAGS + TRAIN_SWITCHES] + ["val_interval", "device"]
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.test_interval is not None:
        settings.setdefault("val_interval", args.test_interval)
        settings.setdefault("lr_step_epochs", args.test_interval)
    if args.gpu is not None:
        settings.setdefault("device", f"cuda:{args.gpu}")
    return settings

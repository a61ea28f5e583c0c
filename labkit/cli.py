"""The command line: `labkit COMMAND …`. What each command does is in `commands.py`."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields
from typing import get_args

from labkit import __version__
from labkit.config import PRESETS, TrainConfig, read_settings
from labkit.utils import StopSignals, UserError

VOXCELEB_FLAGS = dict(
    nOut="embedding_size",
    initial_model="initial_weights",
    trainfunc="loss",
    nClasses="num_classes",
    nPerClass="images_per_class",
    max_img_per_cls="max_images_per_class",
    nDataLoaderThread="workers",
    save_path="run_dir",
    train_path="train_dir",
    train_ext="train_extensions",
    test_path="val_dir",
    test_list="val_list",
    mixedprec="mixed_precision",
    test_interval="val_interval",  # and lr_step_epochs: that trainer has one number for both
    gpu="device",
)
"""Flags of the VoxCeleb trainer and the settings that they stand for."""


class Parser(argparse.ArgumentParser):
    """argparse with its error message on one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def natural(text: str) -> int:
    """The type of a flag that takes a whole number of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, found {value}")
    return value


def positive(text: str) -> int:
    """The type of a flag that takes a whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, found {value}")
    return value


def _box(text: str) -> tuple[float, ...]:
    edges = tuple(float(edge) for edge in text.split(","))
    if len(edges) != 4:
        raise argparse.ArgumentTypeError(f"must be left,top,right,bottom, found {text}")
    return edges


def build_parser() -> Parser:
    """Return the parser of all commands; its `command` is the name of a function in commands.py."""
    parser = Parser(
        prog="labkit",
        description="KSTAR FaceLab: train a face embedding, measure it, find look-alikes, "
        "draw a FaceMap.",
    )
    parser.add_argument("--version", action="version", version=f"labkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    settings = {setting.name: setting for setting in fields(TrainConfig)}
    common, network = Parser(add_help=False), Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument("--device", help=settings["device"].metadata["help"])
    plugin = settings["plugin"].metadata["help"]
    network.add_argument("--plugin", metavar="FILE.py", help=plugin)

    def command(name: str, text: str, *parents: Parser):
        made = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        return made.add_argument

    add = command("synth", "render built-in faces into a face folder")
    add("--out", required=True, metavar="DIR")
    add("--population", choices=("world", "kstar"), default="world")
    add("--identities", type=positive, default=100, metavar="N")
    add("--images", type=positive, default=20, metavar="M", help="images of each identity")
    add("--size", type=positive, default=128, metavar="PX")
    add("--seed", type=natural, default=0, metavar="S")
    add("--landmarks", action="store_true", help="write eyes, nose and mouth positions too")

    add = command("pairs", "make a pair list for a face folder")
    add("folder", metavar="DIR")
    add("--out", required=True, metavar="FILE")
    add("--per-image", type=positive, default=4, metavar="N", help="pairs for each image, about")
    add("--seed", type=natural, default=0, metavar="S")
    add("--unlabelled", action="store_true", help="leave the labels out (a blind list)")

    add = command("train", "train a network; the same command again resumes it", network)
    for name, setting in settings.items():
        if name not in ("device", "plugin"):
            _add_setting(add, setting)
    add("--gpu", type=natural, metavar="N", help="the GPU with this number")
    text = "the VoxCeleb trainer's flag for both --val_interval and --lr_step_epochs"
    add("--test_interval", type=positive, metavar="N", help=text)
    add("--config", metavar="FILE.yaml", help="settings; flags win over them")
    add("--eval", action="store_true", help="score --test_list with --initial_model; no training")
    add("--output", metavar="FILE", help="score file that --eval writes")

    add = command("eval", "score a pair list with trained weights and report the EER", network)
    add("--weights", required=True, metavar="FILE")
    add("--test_path", required=True, metavar="DIR")
    add("--test_list", required=True, metavar="FILE")
    add("--output", metavar="FILE", help="score file to write")
    add("--report", metavar="DIR", help="folder for figures and a report page")
    add("--flip", action="store_true", help="average with the horizontal flip")
    add("--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32",
        help="what the network computes in; auto is the fastest the device has")  # fmt: skip
    add("--compare", nargs="+", default=[], metavar="SCORE_FILE",
        help="score files of other systems on this list, for the report")  # fmt: skip

    add = command("score", "report the EER of a score file")
    add("score_file", metavar="SCORE_FILE")
    add("--labels", metavar="FILE", help="labelled pair list, for the scores of a blind list")

    add = command("embed", "embed the images of a folder", network)
    add("folder", metavar="DIR")
    add("--weights", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE.npz")
    add("--detect", action="store_true", help="crop the face of each photo first")

    add = command("gallery", "make a gallery of known people from a face folder", network)
    add("folder", metavar="DIR")
    add("--weights", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE")
    add("--val_path", metavar="DIR", help="face folder to calibrate likeness on, with --val_list")
    add("--val_list", metavar="FILE", help="its labelled pair list")

    add = command("lookalike", "find the people of a gallery who look like a photo", network)
    add("photos", nargs="+", metavar="PHOTO")
    add("--gallery", required=True, metavar="FILE")
    add("--weights", metavar="FILE", help="when the gallery's own weights have moved")
    add("-k", type=positive, default=5, help="how many to show")
    add("--face", type=positive, default=1, metavar="N", help="which face, the largest is 1")
    add("--box", type=_box, metavar="L,T,R,B", help="the face by hand, in pixels of the photo")
    add("--sheet", metavar="FILE.png", help="write a picture of the answer")

    add = command("facemap", "draw a map of a gallery's faces")
    add("--gallery", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE", help="map.html, map.png or map.pdf")
    add("--method", choices=("umap", "tsne", "pca"), default="umap")
    add("--photos", action="store_true", help="every photo, not one point for each person")
    add("--seed", type=natural, default=0, metavar="S")

    add = command("run", "run the five notebooks, from faces to a FaceMap")
    add("--preset", choices=tuple(PRESETS), default="demo")
    add("--data", metavar="DIR", help="a data directory; built-in faces when left out")
    add("--out", metavar="DIR", help="run directory (default: runs/PRESET)")
    add("--photo", metavar="FILE", help="the photo to find look-alikes of")
    add("--seed", type=natural, default=0, metavar="S")

    add = command("doctor", "show versions, devices, memory, disk and the data")
    add("--data", metavar="DIR", help="a data directory to look at")
    return parser


def _add_setting(add, setting) -> None:
    """Add the flag of a training setting, with the VoxCeleb trainer's name for it as an alias."""
    aliases = [flag for flag, name in VOXCELEB_FLAGS.items() if name == setting.name]
    names = [f"--{name}" for name in (setting.name, *aliases) if name != "test_interval"]
    text, default = setting.metadata["help"], setting.default
    if setting.type is bool:
        add(*names, dest=setting.name, action="store_true", default=None, help=text)
    else:
        kind = (*get_args(setting.type), setting.type)[0]
        text += "" if default is None else f" (default {default})"
        add(*names, dest=setting.name, type=kind, default=None, help=text)


def train_settings(args: argparse.Namespace) -> dict:
    """Return the settings of `labkit train`, as keyword arguments of TrainConfig.

    Flags win over those of the --config file, and a setting's own name over an alias.
    """
    names = [setting.name for setting in fields(TrainConfig)] + ["test_interval", "gpu"]
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    file = read_settings(args.config, VOXCELEB_FLAGS) if args.config else {}
    return _own_names(file) | _own_names(flags)


def _own_names(given: dict) -> dict:
    meant = {}
    for flag, name in VOXCELEB_FLAGS.items():
        if flag in given:
            meant[name] = f"cuda:{given[flag]}" if flag == "gpu" else given[flag]
    if "test_interval" in given:
        meant["lr_step_epochs"] = given["test_interval"]
    return meant | {name: value for name, value in given.items() if name not in VOXCELEB_FLAGS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 when it did what was asked, 2 for a mistake of the user's, 75 for a training run that was
    asked to stop and can be resumed. Any other error is a bug and shows its traceback. Of several
    training processes the first alone prints.
    """
    args = build_parser().parse_args(arguments)
    if args.json:
        os.environ.setdefault("LABKIT_PROGRESS", "none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names can hold anything
    first = os.environ.get("RANK", "0") == "0"
    stoppable = StopSignals(at_once=True) if args.command == "train" else nullcontext()
    try:
        with redirect_stdout(sys.stderr) if args.json else nullcontext(), stoppable:
            from labkit import commands  # PyTorch takes seconds to import; --help should not

            if args.command == "train":
                args.settings = train_settings(args)
            result, text = getattr(commands, args.command)(args)
        if first:
            print(json.dumps(result, default=str) if args.json else text, flush=True)
    except UserError as error:
        if first:
            print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("labkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0

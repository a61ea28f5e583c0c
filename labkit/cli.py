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

import labkit
from labkit.config import PRESETS, TrainConfig, read_settings
from labkit.registry import load_plugin
from labkit.utils import StopSignals, UserError

# Flags of the VoxCeleb trainer and the settings that they stand for; test_interval stands for
# lr_step_epochs too, as that trainer has one number for both.
VOXCELEB_FLAGS = dict(flag.split("=") for flag in """
nOut=embedding_size initial_model=initial_weights trainfunc=loss nClasses=num_classes
nPerClass=images_per_class max_img_per_cls=max_images_per_class nDataLoaderThread=workers
save_path=run_dir train_path=train_dir train_ext=train_extensions test_path=val_dir
test_list=val_list mixedprec=mixed_precision test_interval=val_interval gpu=device
""".split())  # fmt: skip


class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # on one line
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _from(least: int):
    """Return the type of a flag that takes a whole number of `least` or more."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, found {text}")
        return int(text)

    return number


natural, positive = _from(0), _from(1)


def box(text: str) -> tuple[float, ...]:
    return tuple(float(edge) for edge in text.split(","))


def build_parser() -> Parser:
    """Return the parser of all commands; its `command` is the name of a function in commands.py."""
    parser = Parser(prog="labkit", description=labkit.__doc__)
    parser.add_argument("--version", action="version", version=f"labkit {labkit.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    settings = {setting.name: setting for setting in fields(TrainConfig)}
    common, network, weights, folder, seed = (Parser(add_help=False) for _ in range(5))
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument("--device", help=settings.pop("device").metadata["help"])
    plugin = settings.pop("plugin").metadata["help"]
    network.add_argument("--plugin", metavar="FILE.py", help=plugin)
    weights.add_argument("--weights", required=True, metavar="FILE")
    folder.add_argument("folder", metavar="DIR")
    folder.add_argument("--out", required=True, metavar="FILE")
    seed.add_argument("--seed", type=natural, default=0, metavar="S")

    def command(name: str, text: str, *parents: Parser):
        made = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        return made.add_argument

    add = command("synth", "render built-in faces into a face folder", seed)
    add("--out", required=True, metavar="DIR")
    add("--population", choices=("world", "kstar"), default="world")
    add("--identities", type=positive, default=100, metavar="N")
    add("--images", type=positive, default=20, metavar="M", help="images of each identity")
    add("--size", type=positive, default=128, metavar="PX")
    add("--landmarks", action="store_true", help="write eyes, nose and mouth positions too")

    add = command("pairs", "make a pair list for a face folder", folder, seed)
    add("--per-image", type=positive, default=4, metavar="N", help="pairs for each image, about")
    add("--unlabelled", action="store_true", help="leave the labels out (a blind list)")

    add = command("train", "train a network; the same command again resumes it", network)
    for name, setting in settings.items():
        aliases = [flag for flag, meant in VOXCELEB_FLAGS.items() if meant == name]
        names = [f"--{flag}" for flag in (name, *aliases) if flag != "test_interval"]
        text, default = setting.metadata["help"], setting.default
        kind = (*get_args(setting.type), setting.type)[0]
        text += "" if default is None or kind is bool else f" (default {default})"
        how = dict(action="store_true") if kind is bool else dict(type=kind)
        add(*names, dest=name, default=None, help=text, **how)
    add("--gpu", type=natural, metavar="N", help="the GPU with this number")
    text = "the VoxCeleb trainer's flag for both --val_interval and --lr_step_epochs"
    add("--test_interval", type=positive, metavar="N", help=text)
    add("--config", metavar="FILE.yaml", help="settings; flags win over them")
    add("--eval", action="store_true", help="score --test_list with --initial_model; no training")
    add("--output", metavar="FILE", help="score file that --eval writes")

    text = "score a pair list with trained weights and report the EER"
    add = command("eval", text, network, weights)
    add("--test_path", metavar="DIR", help="the images; a .bin set holds its own")
    add("--test_list", required=True, metavar="FILE", help="a pair list, or a set such as lfw.bin")
    add("--output", metavar="FILE", help="score file to write")
    add("--report", metavar="DIR", help="folder for figures and a report page")
    add("--flip", action="store_true", help="average with the horizontal flip")
    text = "what the network computes in; auto is the fastest the device has"
    add("--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32", help=text)
    add("--compare", nargs="+", default=[], metavar="SCORE_FILE", help="scores of other systems")

    text = "print what networks reach on LFW, CFP, .bin sets, pair lists and face folders"
    add = command("benchmark", text, network)
    add("--weights", required=True, action="append", metavar="FILE", help="again for more networks")
    add("sets", nargs="+", metavar="SET", help="LIST, LIST=IMAGES, SET.bin, CFP's FF or FP, FOLDER")
    add("--crop", action="store_true", help="crop the face of each picture first")
    add("--image_size", type=positive, default=224, metavar="PX", help="of other trainers' weights")
    add("--out", metavar="FILE.csv", help="write the table too")

    add = command("score", "report the EER of a score file")
    add("score_file", metavar="SCORE_FILE")
    add("--labels", metavar="FILE", help="labelled pair list, for the scores of a blind list")

    add = command("embed", "embed a folder's images, into an .npz file", network, weights, folder)
    add("--detect", action="store_true", help="crop the face of each photo first")

    text = "make a gallery of known people from a face folder"
    add = command("gallery", text, network, weights, folder)
    add("--val_path", metavar="DIR", help="face folder to calibrate likeness on, with --val_list")
    add("--val_list", metavar="FILE", help="its labelled pair list")

    add = command("lookalike", "find the people of a gallery who look like a photo", network)
    add("photos", nargs="+", metavar="PHOTO")
    add("--gallery", required=True, metavar="FILE")
    add("--weights", metavar="FILE", help="when the gallery's own weights have moved")
    add("-k", type=positive, default=5, help="how many to show")
    add("--face", type=positive, default=1, metavar="N", help="which face, the largest is 1")
    add("--box", type=box, metavar="L,T,R,B", help="the face by hand, in pixels of the photo")
    add("--sheet", metavar="FILE.png", help="write a picture of the answer")

    add = command("facemap", "draw a map of a gallery's faces", seed)
    add("--gallery", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE", help="map.html, map.png or map.pdf")
    add("--method", choices=("umap", "tsne", "pca"), default="umap")
    add("--photos", action="store_true", help="every photo, not one point for each person")

    add = command("run", "run the five notebooks, from faces to a FaceMap", seed)
    add("--preset", choices=tuple(PRESETS), default="demo")
    add("--data", metavar="DIR", help="a data directory; built-in faces when left out")
    add("--out", metavar="DIR", help="run directory (default: runs/PRESET)")
    add("--photo", metavar="FILE", help="find look-alikes of it; the run folder keeps its face")

    add = command("doctor", "show versions, devices, memory, disk and the data")
    add("--data", metavar="DIR", help="a data directory to look at")
    return parser


def train_settings(args: argparse.Namespace) -> dict:
    """Return the settings of TrainConfig: flags win over --config, own names over aliases."""
    names = [setting.name for setting in fields(TrainConfig)] + ["test_interval", "gpu"]
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = {}
    for given in (read_settings(args.config, VOXCELEB_FLAGS) if args.config else {}, flags):
        settings |= {name: given[flag] for flag, name in VOXCELEB_FLAGS.items() if flag in given}
        if "gpu" in given:
            settings["device"] = f"cuda:{given['gpu']}"
        if "test_interval" in given:
            settings["lr_step_epochs"] = given["test_interval"]
        settings |= {name: given[name] for name in given if name not in VOXCELEB_FLAGS}
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 when it did what was asked, 2 for a mistake.

    75 is a command that was asked to stop, and goes on or begins anew when it is given again. Any
    other error is a bug and shows its traceback. Of several training processes the first prints.
    """
    home = os.path.expanduser("~/")  # which no shell puts into --out=~/run
    arguments = sys.argv[1:] if arguments is None else arguments
    args = build_parser().parse_args([text.replace("=~/", f"={home}") for text in arguments])
    if args.json:
        os.environ.setdefault("LABKIT_PROGRESS", "none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names can hold anything
    first = os.environ.get("RANK", "0") == "0"
    output = redirect_stdout(sys.stderr) if args.json else nullcontext()
    try:
        with output, StopSignals(at_once=True):
            from labkit import commands  # PyTorch takes seconds to import; --help should not

            if args.command == "train":
                args.settings = train_settings(args)
            elif getattr(args, "plugin", None):
                load_plugin(args.plugin)
            result, text = getattr(commands, args.command)(args)
        if first:
            print(json.dumps(result, default=str) if args.json else text, flush=True)
    except UserError as error:
        if first:
            print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return getattr(args, "exit_code", 0)

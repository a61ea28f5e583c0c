"""The command line: `labkit COMMAND …`. What each command does is in `commands.py`."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from labkit import __version__
from labkit.config import PRESETS
from labkit.errors import AgreedError
from labkit.signals import StopAsked, Stopped, stop_at_once
from labkit.train_flags import add_train_flags
from labkit.utils import UserError


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; its `command` is the name of a function in `commands.py`."""
    parser = Parser(
        prog="labkit",
        description="KSTAR FaceLab: train a face embedding, measure it, find look-alikes, "
        "draw a FaceMap.",
    )
    parser.add_argument("--version", action="version", version=f"labkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument(
        "--device", help="cpu, cuda, cuda:0 or mps; the best there is when left out"
    )

    with_network = argparse.ArgumentParser(add_help=False)
    with_network.add_argument(
        "--plugin", metavar="FILE.py", help="Python file that registers networks or losses of yours"
    )

    def command(name: str, text: str, *parents: argparse.ArgumentParser):
        return commands.add_parser(name, help=text, description=text, parents=[common, *parents])

    add = command("synth", "render built-in faces into a face folder").add_argument
    add("--out", required=True, metavar="DIR")
    add("--population", choices=("world", "kstar"), default="world")
    add("--identities", type=positive, default=100, metavar="N")
    add("--images", type=positive, default=20, metavar="M", help="images of each identity")
    add("--size", type=positive, default=128, metavar="PX")
    add("--seed", type=natural, default=0, metavar="S")
    add("--landmarks", action="store_true", help="write eyes, nose and mouth positions too")

    add = command("pairs", "make a pair list for a face folder").add_argument
    add("folder", metavar="DIR")
    add("--out", required=True, metavar="FILE")
    add("--per-image", type=positive, default=4, metavar="N", help="pairs for each image, about")
    add("--seed", type=natural, default=0, metavar="S")
    add("--unlabelled", action="store_true", help="leave the labels out (a blind list)")

    text = "train a network; again to go on where it stopped"
    add_train_flags(command("train", text, with_network))

    text = "score a pair list with trained weights and report the EER"
    add = command("eval", text, with_network).add_argument
    add("--weights", required=True, metavar="FILE")
    add("--test_path", required=True, metavar="DIR")
    add("--test_list", required=True, metavar="FILE")
    add("--output", metavar="FILE", help="score file to write")
    add("--report", metavar="DIR", help="folder for figures and a report page")
    add("--flip", action="store_true", help="average with the mirror image")
    add("--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32",
        help="what the network computes in; auto is the fastest the device has")  # fmt: skip
    add("--compare", nargs="+", default=[], metavar="SCORE_FILE",
        help="score files of other systems on this list, for the report")  # fmt: skip

    add = command("score", "report the EER of a score file").add_argument
    add("score_file", metavar="SCORE_FILE")
    add("--labels", metavar="FILE", help="labelled pair list, for the scores of a blind list")

    add = command("embed", "embed the images of a folder", with_network).add_argument
    add("folder", metavar="DIR")
    add("--weights", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE.npz")
    add("--detect", action="store_true", help="cut the face out of each photo first")

    text = "make a gallery of known people from a face folder"
    add = command("gallery", text, with_network).add_argument
    add("folder", metavar="DIR")
    add("--weights", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE")
    add("--val_path", metavar="DIR", help="face folder to calibrate likeness on, with --val_list")
    add("--val_list", metavar="FILE", help="its labelled pair list")

    text = "find the people of a gallery who look like a photo"
    add = command("lookalike", text, with_network).add_argument
    add("photos", nargs="+", metavar="PHOTO")
    add("--gallery", required=True, metavar="FILE")
    add("--weights", metavar="FILE", help="when the gallery's own weights have moved")
    add("-k", type=positive, default=5, help="how many to show")
    add("--face", type=positive, default=1, metavar="N", help="which face, the largest is 1")
    add("--box", type=_box, metavar="L,T,R,B", help="the face by hand, in pixels of the photo")
    add("--sheet", metavar="FILE.png", help="write a picture of the answer")

    add = command("facemap", "draw a map of a gallery's faces").add_argument
    add("--gallery", required=True, metavar="FILE")
    add("--out", required=True, metavar="FILE", help="map.html, map.png or map.pdf")
    add("--method", choices=("umap", "tsne", "pca"), default="umap")
    add("--photos", action="store_true", help="every photo, not one point for each person")
    add("--seed", type=natural, default=0, metavar="S")

    add = command("run", "run the five notebooks, from faces to a FaceMap").add_argument
    add("--preset", choices=tuple(PRESETS), default="demo")
    add("--data", metavar="DIR", help="a data directory; built-in faces when left out")
    add("--out", metavar="DIR", help="run directory (default: runs/PRESET)")
    add("--photo", metavar="FILE", help="the photo to find look-alikes of")
    add("--seed", type=natural, default=0, metavar="S")

    add = command("doctor", "show versions, devices, memory, disk and what is there").add_argument
    add("--data", metavar="DIR", help="a data directory to look at")
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, with the message for a wrong flag on one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, found {value}")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, found {value}")
    return value


def _box(text: str) -> tuple[float, ...]:
    edges = tuple(float(edge) for edge in text.split(","))
    if len(edges) != 4:
        raise argparse.ArgumentTypeError(f"must be left,top,right,bottom, found {text}")
    return edges


def _answer(args: argparse.Namespace) -> tuple[dict, str]:
    from labkit import commands  # PyTorch takes seconds to import; --help should not

    return getattr(commands, args.command)(args)


def _stoppable(args: argparse.Namespace) -> tuple[dict, str]:
    """The answer, or Stopped for a signal while no training has signals of its own."""
    came: list[str] = []
    try:
        with stop_at_once(came):
            return _answer(args)
    except StopAsked:
        raise Stopped(
            f"stopped by {came[0]} outside of training; give the same command again"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 2 for a mistake of the user's, 75 for a run
    that was asked to stop and can go on.

    Any other error is a fault of the kit and shows its traceback.
    """
    args = build_parser().parse_args(arguments)
    if args.json:
        os.environ.setdefault("LABKIT_PROGRESS", "none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names can hold anything
    first = os.environ.get("RANK", "0") == "0"  # one answer, however many processes train
    try:
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            result, text = _stoppable(args) if args.command == "train" else _answer(args)
        if first:
            print(json.dumps(result, default=str) if args.json else text)
            sys.stdout.flush()
    except UserError as error:
        if first or not isinstance(error, AgreedError):
            print(f"labkit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("labkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0

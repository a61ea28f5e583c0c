"""One pass through the course: the data, the run folders, and the results of each notebook.

OUT/data/       the built-in faces, when no data directory is given
OUT/scans/      the listings of the face folders, so that they are read from disk once
OUT/pretrain/   OUT/finetune/     run folders
OUT/evaluate/   OUT/lookalike/    OUT/facemap/    OUT/notebooks/
"""

import os
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from joblib import cpu_count

from labkit.config import PRESETS, TrainConfig
from labkit.data import DataDirectory, FaceFolder, PairList
from labkit.devices import best_device
from labkit.synth import SynthSizes, guest_photo, make_data_directory
from labkit.utils import UserError, atomic_path, did_you_mean, write_json

NOTEBOOKS = ("01_pretrain", "02_finetune", "03_evaluate", "04_lookalike", "05_facemap")


@dataclass
class Lab:
    """The settings that the five notebooks share, and where things are.

    data_dir None means KSTAR_FACELAB_DATA or, without it, the built-in faces, which are rendered
    into the run directory. What a run lacks is taken from the run in KSTAR_FACELAB_RUNS, if any.
    """

    preset: str = "demo"
    data_dir: str | None = None
    run_dir: str = "runs/demo"
    seed: int = 0

    def __post_init__(self):
        _check_parameters()
        if self.preset not in PRESETS:
            raise UserError(f"no preset '{self.preset}': choose one of {', '.join(PRESETS)}")
        if type(self.seed) is not int or self.seed < 0:
            raise UserError(f"seed must be a whole number of 0 or more, found {self.seed!r}")
        # As text, because papermill takes a folder called 2024 for a number.
        self.run_path = Path(str(self.run_dir)).expanduser().absolute()
        self.data_dir = self.data_dir or os.environ.get("KSTAR_FACELAB_DATA")
        data = Path(str(self.data_dir or self.folder("data"))).expanduser().absolute()
        self.settings, self.data = PRESETS[self.preset], DataDirectory(data)
        leave_cores_to_others()

    def folder(self, part: str) -> Path:
        """Return the folder of a part of the lab's results."""
        return self.run_path / part

    def prepare_data(self) -> dict[str, FaceFolder]:
        """Return the face folders, built-in ones rendered; UserError lists all that is wrong."""
        if not self.run_path.exists() and (self.data.root.is_dir() or not self.data_dir):
            print(f"new run folder: {self.run_path}")
        if not self.data_dir:
            device = "cuda" if best_device().type == "cuda" else "cpu"
            sizes = SynthSizes(*self.settings.faces)
            make_data_directory(self.data.root, sizes, seed=self.seed, device=device)
        folders = self.data.check(cache=self.folder("scans"))
        print("".join(f"{faces.note}\n" for faces in folders.values() if faces.note), end="")
        return folders

    def stars(self) -> FaceFolder:
        """Return the faces of train, val and test as one folder: all the stars."""
        scans = self.folder("scans")
        return FaceFolder.union([self.data.scan(p, cache=scans) for p in ("train", "val", "test")])

    def config(self, stage: str, **changes) -> TrainConfig:
        """Return the settings of `pretrain` or `finetune`, which starts from pretrained weights."""
        if stage not in ("pretrain", "finetune"):
            raise UserError(f"no training '{stage}': choose pretrain or finetune")
        part = "pretrain" if stage == "pretrain" else "train"
        settings = dict(run_dir=self.folder(stage), train_dir=self.data.root / part)
        settings |= dict(val_dir=self.data.val, val_list=self.data.val_pairs, seed=self.seed)
        settings["drop_optimizer"] = "KSTAR_FACELAB_RUNS" in os.environ  # a room's disk
        if stage == "finetune" and "initial_weights" not in changes:
            settings["initial_weights"] = self.weights("pretrain")
        config = replace(getattr(self.settings, stage), **settings | changes)
        cache = None if "train_dir" in changes else self.folder("scans") / f"{part}.npz"
        faces = FaceFolder.scan(config.train_dir, cache=cache)
        people = int((faces.counts() >= config.images_per_class).sum())
        return replace(config, batch_size=min(config.batch_size, max(people, 1)))

    def file(self, part: str, name: str) -> Path:
        """Return a file that an earlier notebook has made; UserError names that notebook."""
        path = self.folder(part) / name
        if not path.exists() and (shared := os.environ.get("KSTAR_FACELAB_RUNS")):
            path = Path(shared).expanduser().absolute() / part / name
            if path.exists():
                print(f"shared by the staff: {path}")
        if not path.exists():
            [notebook] = [name for name in NOTEBOOKS if name.endswith(part)]
            run = f"run notebook {notebook} with run_dir {self.run_path} first"
            raise UserError(f"{path} is not there: {run}")
        return path

    def weights(self, stage: str) -> Path:
        """Return the best weights of a finished stage; raises as `file`."""
        return self.file(stage, "best.safetensors")

    def pair_list(self, name: str) -> tuple[PairList, Path]:
        """Return the pair list `val` or `test`, and the folder of its images."""
        folder = self.data.root / name
        return PairList.read(self.data.root / f"{name}_pairs.csv", folder), folder

    def save_results(self, part: str, values: dict, name: str = "summary.json") -> None:
        """Write results of a part of the lab as JSON, for the next notebook and the final table."""
        write_json(self.folder(part) / name, values)

    def save_figure(self, figure, part: str, name: str) -> None:
        """Write a matplotlib figure of a part of the lab, whole or not at all."""
        with atomic_path(self.folder(part) / name) as temporary:
            figure.savefig(temporary, dpi=150)

    def guest_photo(self) -> Path:
        """Return a photo of a rendered person who is no star, for when nobody uploads one."""
        path = self.folder("lookalike") / "guest.jpg"
        if not path.exists():
            with atomic_path(path) as temporary:
                guest_photo(seed=self.seed).save(temporary, quality=92)
        return path


def leave_cores_to_others() -> None:
    """Compute with as many threads as cores are idle, at least a quarter, where there are four.

    OMP_NUM_THREADS in the environment wins.
    """
    if (cores := cpu_count()) < 4 or "OMP_NUM_THREADS" in os.environ:
        return
    busy = psutil.cpu_percent(interval=0.5) / 100
    idle = max(cores // 4, round(cores * (1 - busy)))
    if idle < cores:
        torch.set_num_threads(idle)
        print(f"others are at work on these {cores} cores: this notebook takes {idle}")


def _check_parameters() -> None:
    """Refuse parameters that papermill gives, in a cell after the notebook's, but it has not."""
    own, given = {}, {}
    for cell, after in pairwise(getattr(sys.modules["__main__"], "In", [])):
        if "preset" in cell and after.startswith("# Parameters\n"):
            own, given = {}, {}
            exec(cell, own)
            exec(after, given)
    for name, value in given.items():
        if name not in own:
            raise UserError(f"this notebook has no parameter '{name}'{did_you_mean(name, own)}")
        if type(own[name]) is int and type(value) is not int:
            raise UserError(f"{name} must be a whole number, found {value!r}")

"""One pass through the course: the data, the run folders, and what each notebook leaves there.

OUT/data/       the built-in faces, when no data directory is given
OUT/scans/      the listings of the face folders, so that they are read from disk once
OUT/pretrain/   OUT/finetune/     run folders
OUT/evaluate/   OUT/lookalike/    OUT/facemap/    OUT/notebooks/
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from matplotlib.figure import Figure

from labkit.config import Preset, TrainConfig, preset
from labkit.data import DataDirectory, FaceFolder, PairList
from labkit.devices import best_device
from labkit.synth import SynthSizes, guest_photo, make_data_directory
from labkit.utils import UserError, atomic_path, write_json

STAGES = ("pretrain", "finetune")


@dataclass
class Lab:
    """The settings that the five notebooks share, and where things are.

    data_dir None means the built-in faces, which are rendered into the run directory.
    """

    preset: str = "demo"
    data_dir: str | None = None
    run_dir: str = "runs/demo"
    seed: int = 0
    settings: Preset = field(init=False)
    data: DataDirectory = field(init=False)

    def __post_init__(self):
        self.settings = preset(self.preset)
        self.run_path = Path(self.run_dir)
        self.builtin = self.data_dir is None
        self.data = DataDirectory(self.run_path / "data" if self.builtin else self.data_dir)

    def prepare_data(self) -> dict[str, FaceFolder]:
        """The four face folders, rendered first when they are the built-in ones, and checked.

        Raises UserError that lists everything that is wrong with a data directory.
        """
        if self.builtin:
            make_data_directory(
                self.data.root,
                SynthSizes(**self.settings.faces),
                seed=self.seed,
                device="cuda" if best_device().type == "cuda" else "cpu",
            )
        return self.data.check(cache=self.folder("scans"))

    def stars(self) -> FaceFolder:
        """Every star there is: the faces of train, val and test as one folder."""
        return FaceFolder.union([self._scan(part) for part in ("train", "val", "test")])

    def _scan(self, part: str) -> FaceFolder:
        return FaceFolder.scan(self.data.root / part, cache=self.folder("scans") / f"{part}.npz")

    def config(self, stage: str, **changes) -> TrainConfig:
        """Training settings of `pretrain` or `finetune` for this lab's folders.

        Fine-tuning starts from the pretrained weights. Where a folder has fewer people (with
        enough images) than the preset's batch, the batch takes them all.
        """
        fixed = dict(
            run_dir=str(self.folder(stage)),
            train_dir=str(self.data.pretrain if stage == "pretrain" else self.data.train),
            val_dir=str(self.data.val),
            val_list=str(self.data.val_pairs),
            seed=self.seed,
        )
        if stage == "finetune":
            fixed["initial_weights"] = str(self.weights("pretrain"))
        config = self.settings.stage(stage, **{**fixed, **changes})
        if "train_dir" in changes:
            counts = FaceFolder.scan(config.train_dir, extensions=config.train_extensions).counts()
        else:
            counts = self._scan("pretrain" if stage == "pretrain" else "train").counts()
        people = int((counts >= config.images_per_class).sum())
        return replace(config, batch_size=min(config.batch_size, max(people, 1)))

    def folder(self, part: str) -> Path:
        """Where a part of the lab keeps its results."""
        return self.run_path / part

    def weights(self, stage: str = "finetune") -> Path:
        """The best weights of a finished stage; UserError names the notebook to run first."""
        path = self.folder(stage) / "best.safetensors"
        if not path.exists():
            number = STAGES.index(stage) + 1
            raise UserError(
                f"{path} is not there: run notebook {number:02d}_{stage} with run_dir "
                f"{self.run_dir} first"
            )
        return path

    def pair_list(self, name: str) -> tuple[PairList, Path]:
        """The pair list `val` or `test`, and the folder of its images."""
        path, folder = {
            "val": (self.data.val_pairs, self.data.val),
            "test": (self.data.test_pairs, self.data.test),
        }[name]
        return PairList.read(path, folder), folder

    def save_results(self, part: str, values: dict, name: str = "summary.json") -> Path:
        """Write results of a part of the lab as JSON, for the next notebook and the final table."""
        path = self.folder(part) / name
        write_json(path, values)
        return path

    def save_figure(self, figure: Figure, part: str, name: str) -> Path:
        """Write a figure of a part of the lab, whole or not at all."""
        path = self.folder(part) / name
        with atomic_path(path) as beside:
            figure.savefig(beside, dpi=150)
        return path

    def file(self, part: str, name: str) -> Path:
        """A file that an earlier notebook has made; UserError when it is not there."""
        path = self.folder(part) / name
        if not path.exists():
            raise UserError(
                f"{path} is not there: run the notebooks before this one with run_dir "
                f"{self.run_dir} first"
            )
        return path

    def guest_photo(self) -> Path:
        """A photo of a rendered person who is not among the stars, for when nobody uploads one."""
        path = self.folder("lookalike") / "guest.jpg"
        if not path.exists():
            with atomic_path(path) as beside:
                guest_photo(seed=self.seed).save(beside, quality=92)
        return path

    def results(self, part: str, name: str = "summary.json") -> dict | None:
        """What a notebook has written of its results; None when it has not run."""
        path = self.folder(part) / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

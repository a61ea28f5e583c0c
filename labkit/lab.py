"""One pass through the course: the data, the run folders, and the results of each notebook.

OUT/data/       the built-in faces, when no data directory is given
OUT/scans/      the listings of the face folders, so that they are read from disk once
OUT/pretrain/   OUT/finetune/     run folders
OUT/evaluate/   OUT/lookalike/    OUT/facemap/    OUT/notebooks/
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.config import TrainConfig, preset
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

    def __post_init__(self):
        self.settings = preset(self.preset)
        self.run_path = Path(self.run_dir)
        self.builtin = self.data_dir is None
        self.data = DataDirectory(self.run_path / "data" if self.builtin else self.data_dir)

    def prepare_data(self) -> dict[str, FaceFolder]:
        """Return the four face folders, checked; built-in ones are rendered first.

        Raises UserError that lists everything that is wrong with a data directory.
        """
        if self.builtin:
            device = "cuda" if best_device().type == "cuda" else "cpu"
            sizes = SynthSizes(**self.settings.faces)
            make_data_directory(self.data.root, sizes, seed=self.seed, device=device)
        return self.data.check(cache=self.folder("scans"))

    def stars(self) -> FaceFolder:
        """Return the faces of train, val and test as one folder: all the stars."""
        return FaceFolder.union([self._scan(part) for part in ("train", "val", "test")])

    def _scan(self, part: str) -> FaceFolder:
        return FaceFolder.scan(self.data.root / part, cache=self.folder("scans") / f"{part}.npz")

    def config(self, stage: str, **changes) -> TrainConfig:
        """Return the training settings of `pretrain` or `finetune` for this lab's folders.

        Fine-tuning starts from the pretrained weights. Where a folder has fewer people (with
        enough images) than the preset's batch, the batch takes them all.
        """
        part = "pretrain" if stage == "pretrain" else "train"
        settings = dict(
            run_dir=str(self.folder(stage)),
            train_dir=str(self.data.root / part),
            val_dir=str(self.data.val),
            val_list=str(self.data.val_pairs),
            seed=self.seed,
        )
        if stage == "finetune" and "initial_weights" not in changes:
            settings["initial_weights"] = str(self.weights("pretrain"))
        config = self.settings.stage(stage, **{**settings, **changes})
        faces = FaceFolder.scan(config.train_dir) if "train_dir" in changes else self._scan(part)
        people = int((faces.counts() >= config.images_per_class).sum())
        return replace(config, batch_size=min(config.batch_size, max(people, 1)))

    def folder(self, part: str) -> Path:
        """Return the folder of a part of the lab's results."""
        return self.run_path / part

    def weights(self, stage: str = "finetune") -> Path:
        """Return the best weights of a finished stage; UserError names the notebook to run."""
        notebook = f"notebook {STAGES.index(stage) + 1:02d}_{stage}"
        return self._made(self.folder(stage) / "best.safetensors", notebook)

    def file(self, part: str, name: str) -> Path:
        """Return a file that an earlier notebook has made; UserError when it is not there."""
        return self._made(self.folder(part) / name, "the notebooks before this one")

    def _made(self, path: Path, by: str) -> Path:
        if not path.exists():
            raise UserError(f"{path} is not there: run {by} with run_dir {self.run_dir} first")
        return path

    def pair_list(self, name: str) -> tuple[PairList, Path]:
        """Return the pair list `val` or `test`, and the folder of its images."""
        folder = self.data.root / name
        return PairList.read(self.data.root / f"{name}_pairs.csv", folder), folder

    def save_results(self, part: str, values: dict, name: str = "summary.json") -> Path:
        """Write results of a part of the lab as JSON, for the next notebook and the final table."""
        path = self.folder(part) / name
        write_json(path, values)
        return path

    def results(self, part: str, name: str = "summary.json") -> dict | None:
        """Return what a notebook has written of its results; None when it has not run."""
        path = self.folder(part) / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def save_figure(self, figure, part: str, name: str) -> Path:
        """Write a matplotlib figure of a part of the lab, whole or not at all."""
        path = self.folder(part) / name
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)
        return path

    def guest_photo(self) -> Path:
        """Return a photo of a rendered person who is no star, for when nobody uploads one."""
        path = self.folder("lookalike") / "guest.jpg"
        if not path.exists():
            with atomic_path(path) as temporary:
                guest_photo(seed=self.seed).save(temporary, quality=92)
        return path

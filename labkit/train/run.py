"""One run: where it stands, what of it is kept, and when it cannot go on."""

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from labkit.checkpoint import RunFolder, save_weights
from labkit.config import TrainConfig
from labkit.devices import random_state, set_random_state
from labkit.errors import AgreedError
from labkit.models import InputSpec
from labkit.train.processes import Processes
from labkit.trainset import TrainingData
from labkit.utils import Stopped, UserError, short_reason, write_text

MOST_UNREADABLE = 0.01  # a run stops when more of its images than this cannot be decoded
NAMES_IN_MESSAGES = 5
RECENT_STEPS = 1000  # whose images are remembered; more than between two looks at the losses


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to.

    rows: one dictionary per epoch, as in metrics.csv. best_val_eer: percent, None without
    validation. unreadable: names of the training images that could not be decoded.
    """

    run_dir: Path
    best_weights: Path
    last_weights: Path
    best_val_eer: float | None
    best_epoch: int | None
    rows: list[dict]
    unreadable: list[str]


@dataclass
class Position:
    """How far a run has come and what it has measured on the way; kept in the state file."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    best_val_eer: float | None = None
    best_epoch: int | None = None
    rows: list[dict] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    identities: int = 0
    images: int = 0
    listing: str = ""

    def add(self, row: dict, *, validated: bool) -> bool:
        """Take in the row of a finished epoch; whether no epoch before was as good.

        Without validation the last epoch counts as the best.
        """
        self.rows.append(row)
        value = row["val_eer"]
        better = value is not None and (self.best_val_eer is None or value < self.best_val_eer)
        if better or not validated:
            self.best_val_eer, self.best_epoch = value, row["epoch"]
        return better or not validated

    def result(self, folder: RunFolder) -> TrainResult:
        """What the run has come to."""
        return TrainResult(
            run_dir=folder.path,
            best_weights=folder.best,
            last_weights=folder.last,
            best_val_eer=self.best_val_eer,
            best_epoch=self.best_epoch,
            rows=self.rows,
            unreadable=self.unreadable,
        )


def note_unreadable(here: Position, names: list[str], where: str) -> None:
    """Remember images that could not be decoded; UserError when they are more than 1 %."""
    new = sorted(set(names) - set(here.unreadable))
    here.unreadable.extend(new)
    if new and len(here.unreadable) > MOST_UNREADABLE * here.images:
        shown = ", ".join(here.unreadable[:10])
        raise AgreedError(
            f"{len(here.unreadable)} of {here.images} images in {where} cannot be "
            f"decoded, more than 1 %: {shown}; put whole ones in their place, or remove them and "
            "train in another run folder"
        )


class LossWatch:
    """Looks for a loss that is no longer a number, without making the device wait each step."""

    def __init__(self, data: TrainingData, folder: RunFolder, processes: Processes):
        self._data, self._folder, self._processes = data, folder, processes
        self._unchecked: list[tuple] = []
        self._recent: deque[tuple] = deque(maxlen=RECENT_STEPS)
        self._bad: tuple | None = None

    def note(self, epoch: int, step: int, loss: torch.Tensor, numbers: torch.Tensor) -> None:
        """Remember the loss of a step and which images it came from."""
        self._unchecked.append(((epoch, step), loss.detach()))
        self._recent.append(((epoch, step), numbers))

    def bad(self) -> bool:
        """Whether a loss of this process, since the last look, is a NaN or infinity."""
        unchecked, self._unchecked = self._unchecked, []
        if unchecked and self._bad is None:
            losses = torch.stack([loss for _, loss in unchecked]).tolist()
            places = [place for place, _ in unchecked]
            wrong = ((p, loss) for p, loss in zip(places, losses) if not math.isfinite(loss))
            self._bad = next(wrong, None)
        return self._bad is not None

    def complain(self) -> None:
        """AgreedError that names the first such batch, of all processes; all of them call it."""
        (epoch, step), loss = min(filter(None, self._processes.everyones(self._bad)))
        own = [n for place, n in self._recent if place == (epoch, step)]
        own_names = [self._data.name(int(i)) for numbers in own for i in numbers.flatten()]
        names = [name for some in self._processes.everyones(own_names) for name in some]
        listed = self._folder.path / "failed_batch.txt"
        self._processes.by_main(lambda: write_text(listed, "\n".join(names) + "\n"))
        more = len(names) - NAMES_IN_MESSAGES
        raise AgreedError(
            f"the loss became {loss} in step {step} of epoch {epoch + 1}, on the batch "
            f"{', '.join(names[:NAMES_IN_MESSAGES])}"
            + (f" and {more} more (all in {listed})" if more > 0 else "")
            + f"; {last_good(self._folder)}: lower lr, or train without mixed precision"
        )


def check_weights(module: nn.Module, folder: RunFolder, here: Position) -> None:
    """UserError, before anything is saved, when a weight is no longer a finite number."""
    for name, value in module.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise UserError(
                f"the weights {name} are no longer numbers after step {here.step} of epoch "
                f"{here.epoch + 1}; {last_good(folder)}: lower lr, or train without mixed "
                "precision"
            )


def last_good(folder: RunFolder) -> str:
    """Where the run can go on from, for a message."""
    if folder.state_file.exists():
        return f"the last good checkpoint is {folder.state_file}"
    return "there is no checkpoint yet"


def keep_weights(
    folder: RunFolder, network: nn.Module, config: TrainConfig, spec: InputSpec, *, best: bool
) -> None:
    """Write last.safetensors and, when no epoch before was as good, best.safetensors."""
    about = dict(model_name=config.model, embedding_size=config.embedding_size, input_spec=spec)
    save_weights(folder.last, network, **about)
    if best:
        save_weights(folder.best, network, **about)


def save(folder: RunFolder, here: Position, module, optimizer, accelerator: Accelerator) -> None:
    """Write the state, after the weights that it speaks of, and the metrics after it."""
    check_weights(module, folder, here)
    scaler = accelerator.scaler
    folder.save_state(
        dict(
            position=vars(here),
            module=module.state_dict(),
            optimizer=optimizer.state_dict(),
            scaler=None if scaler is None else scaler.state_dict(),
            random=random_state(accelerator.device),
        )
    )
    folder.write_metrics(here.rows)


def restore(folder: RunFolder, saved: dict, module, optimizer, accelerator: Accelerator) -> None:
    """Bring module, optimizer, loss scale and random states back to where they were saved.

    Raises UserError when the network or the loss is no longer the one that was saved.
    """
    try:
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the network or the loss is not the one that {folder.path} was trained with "
            f"({short_reason(error)}): choose another run folder"
        ) from error
    if accelerator.scaler is not None and saved["scaler"]:
        accelerator.scaler.load_state_dict(saved["scaler"])
    random = saved["random"]  # a bare tensor in older states, which knew the CPU's alone
    set_random_state([random] if isinstance(random, torch.Tensor) else random, accelerator.device)


def end_if_stopped(stopping: bool, signals: list[str], folder: RunFolder) -> None:
    """Raises Stopped when the run was asked to stop; everything is saved by now."""
    if stopping:
        by = signals[0] if signals else "a signal to another process"
        raise Stopped(
            f"stopped by {by} with everything saved in {folder.path}: "
            "the same command goes on from here"
        )


def line(row: dict, config: TrainConfig) -> str:
    """One epoch in words."""
    parts = [f"epoch {row['epoch']}/{config.max_epoch}: loss {row['train_loss']:.3f}"]
    if row["train_accuracy"] is not None:
        parts.append(f"accuracy {row['train_accuracy']:.1f} %")
    if row["val_eer"] is not None:
        parts.append(f"validation EER {row['val_eer']:.2f} %")
    parts += [f"lr {row['lr']:.2g}", f"{row['images_per_second']:.0f} images/s"]
    return ", ".join(parts)

"""The training loop: batch, forward, loss, step, log, validate, save.

    labkit train --config run.yaml
    labkit train --train_path data/pretrain --save_path runs/first --trainfunc amsoftmax
    torchrun --nproc-per-node 4 -m labkit train --config run.yaml

A run that was stopped goes on where it was when the same command is given again: whatever is
random in it is a function of the seed, the epoch and the step, and `last/state.pt` has the rest.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.nn.functional import all_gather

from labkit.checkpoint import RunFolder, load_initial_weights, save_weights
from labkit.config import TrainConfig
from labkit.data import FaceFolder, PairList, train_loader
from labkit.devices import default_workers, make_accelerator
from labkit.embed import Embedder, normalize
from labkit.errors import UserError
from labkit.evaluate import score_pairs
from labkit.losses import build_loss
from labkit.metrics import eer
from labkit.models import InputSpec, build_model, freeze_backbone
from labkit.optim import build_optimizer, build_schedule, set_learning_rate
from labkit.plugins import load_plugin
from labkit.progress import progress
from labkit.signals import stop_signals

MOST_UNREADABLE = 0.01  # a run stops when more of its images than this cannot be decoded
SECONDS_BETWEEN_LOSSES = 1.0


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


class Stopped(UserError):
    """The run was asked to stop (SIGTERM, Ctrl-C), saved its state and ended."""


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


class TrainingStep(nn.Module):
    """Network and loss as one module: uint8 images (batch, images_per_class, 3, h, w) to a loss.

    With several processes, a loss that compares the faces of a batch sees those of all of them.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, spec: InputSpec, compiled: bool):
        super().__init__()
        self.network, self.loss, self.spec = network, loss, spec
        # In a tuple, so that the compiled twin is not registered as more parameters.
        self._embed = (torch.compile(network) if compiled else network,)

    def forward(self, images: torch.Tensor, labels: torch.Tensor):
        batch, per_class = images.shape[:2]
        embeddings = self._embed[0](normalize(images.flatten(0, 1), self.spec))
        embeddings = embeddings.view(batch, per_class, -1)
        if _compares_images(self.loss) and torch.distributed.is_initialized():
            embeddings = torch.cat(all_gather(embeddings))
            labels = torch.cat(all_gather(labels))
        return self.loss(embeddings, labels)


def fit(config: TrainConfig) -> TrainResult:
    """Train as `config` says, into `config.run_dir`, from the start or from where it stopped.

    Raises UserError, before training begins, for settings that do not fit each other or the
    data; `Stopped` after SIGTERM or Ctrl-C, with the state saved.
    """
    if config.plugin:
        load_plugin(config.plugin)
    accelerator = make_accelerator(
        config.device, mixed=config.mixed_precision, partly_frozen=config.freeze_epochs > 0
    )
    main, device = accelerator.is_main_process, accelerator.device
    folder = RunFolder(config.run_dir)
    with folder if main else nullcontext():
        if main:
            folder.begin(config)
        accelerator.wait_for_everyone()
        saved = folder.load_state()
        here = Position(**saved["position"]) if saved else Position()
        if here.epoch >= config.max_epoch:
            return _result(folder, here)

        torch.manual_seed(config.seed)
        faces = _scan(config, here, folder.path / "train_scan.npz" if main else None)
        validation = _read_validation(config)
        loader = train_loader(
            faces,
            batch_size=config.batch_size,
            image_size=config.image_size,
            images_per_class=config.images_per_class,
            max_images_per_class=config.max_images_per_class,
            mirror=config.mirror,
            workers=default_workers(device) if config.workers is None else config.workers,
            seed=config.seed,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            pin_memory=device.type == "cuda",
        )
        steps, images_per_step = len(loader), config.batch_size * config.images_per_class
        spec = InputSpec(image_size=config.image_size)
        network = build_model(config.model, config.embedding_size)
        if config.initial_weights and not saved:
            report = load_initial_weights(network, config.initial_weights)
            accelerator.print(f"{config.initial_weights}: {report.summary()}")
        network.to(device, memory_format=torch.channels_last)
        loss_function = _build_loss(config, len(faces.identities)).to(device)
        module = TrainingStep(network, loss_function, spec, config.compile)
        optimizer = build_optimizer(
            config.optimizer, module, lr=config.lr, weight_decay=config.weight_decay
        )
        schedule = build_schedule(
            config.scheduler,
            lr=config.lr,
            max_epoch=config.max_epoch,
            lr_decay=config.lr_decay,
            lr_step_epochs=config.lr_step_epochs,
            restart_epochs=config.restart_epochs,
            min_lr=config.min_lr,
            warmup_epochs=config.warmup_epochs,
        )
        trained, optimizer = accelerator.prepare(module, optimizer)
        if saved:
            _restore(saved, module, optimizer, accelerator)
            accelerator.print(
                f"{folder.path}: going on in epoch {here.epoch + 1} after step {here.step}"
            )

        last_saved = time.monotonic()
        with stop_signals() as stop:
            for epoch in range(here.epoch, config.max_epoch):
                loader.batch_sampler.set_epoch(epoch, here.step)
                trained.train()
                if config.freeze_epochs:
                    freeze_backbone(network, epoch < config.freeze_epochs)
                sums = _sums(here, device)
                began, shown, first_step = time.monotonic(), time.monotonic(), here.step
                bar = progress(
                    total=(steps - first_step) * images_per_step,
                    desc=f"epoch {epoch + 1}/{config.max_epoch}",
                    unit="image",
                    leave=False,
                    quiet=not main,
                )
                with bar:
                    for batch in loader:
                        lr = schedule(epoch + here.step / steps)
                        set_learning_rate(optimizer, lr)
                        images = batch.images.to(device, non_blocking=True)
                        labels = batch.labels.to(device, non_blocking=True)
                        optimizer.zero_grad(set_to_none=True)
                        loss, accuracy = trained(images, labels)
                        accelerator.backward(loss)
                        optimizer.step()

                        sums[0] += loss.detach()
                        sums[1] += math.nan if accuracy is None else accuracy
                        here.step += 1
                        _note_unreadable(here, batch.unreadable, config)
                        bar.update(images_per_step)
                        now = time.monotonic()
                        if now - shown > SECONDS_BETWEEN_LOSSES or here.step == steps:
                            shown = now
                            mean_loss = float(sums[0]) / here.step
                            _check_finite(mean_loss, epoch, here.step)
                            bar.set_postfix(loss=f"{mean_loss:.3f}")
                        due = now - last_saved > 60 * config.checkpoint_minutes
                        if (stop or due) and here.step < steps:
                            here.loss_sum, here.accuracy_sum = sums.tolist()
                            _save(folder, here, module, optimizer, accelerator)
                            last_saved = now
                            _end_if_stopped(stop, folder)

                seconds = time.monotonic() - began
                mean_loss, mean_accuracy = (sums / steps).tolist()
                row = dict(
                    epoch=epoch + 1,
                    step=(epoch + 1) * steps,
                    lr=lr,
                    train_loss=mean_loss,
                    train_accuracy=None if math.isnan(mean_accuracy) else mean_accuracy,
                    val_eer=None,
                    images_per_second=round((steps - first_step) * images_per_step / seconds, 1),
                    seconds=round(seconds, 1),
                )
                last_epoch = epoch + 1 == config.max_epoch
                if main:
                    if validation and (last_epoch or (epoch + 1) % config.val_interval == 0):
                        row["val_eer"] = _validate(network, spec, validation, config)
                    _keep_weights(folder, network, config, spec, here, row)
                here.rows.append(row)
                here.epoch, here.step, here.loss_sum, here.accuracy_sum = epoch + 1, 0, 0.0, 0.0
                accelerator.print(_line(row, config))
                _save(folder, here, module, optimizer, accelerator)
                last_saved = time.monotonic()
                if not last_epoch:
                    _end_if_stopped(stop, folder)
        if here.unreadable:
            accelerator.print(
                f"{len(here.unreadable)} images could not be decoded and were skipped: "
                + ", ".join(here.unreadable)
            )
        return _result(folder, here)


def _scan(config: TrainConfig, here: Position, cache: Path | None) -> FaceFolder:
    """The training images; UserError when they do not fit the settings or the run so far."""
    extensions = [f".{name.strip(' .')}" for name in config.train_extensions.split(",")]
    faces = FaceFolder.scan(config.train_dir, extensions=extensions, cache=cache)
    identities, images = len(faces.identities), len(faces)
    if identities < 2:
        raise UserError(f"{config.train_dir} has one identity: training needs two or more")
    if config.num_classes is not None and identities > config.num_classes:
        raise UserError(
            f"{config.train_dir} has {identities} identities, more than num_classes (nClasses) "
            f"{config.num_classes}: leave it out, or raise it"
        )
    if here.images and (here.identities, here.images) != (identities, images):
        raise UserError(
            f"{config.train_dir} has changed since this run began ({here.images} images of "
            f"{here.identities} identities, now {images} of {identities}): "
            "choose another run folder"
        )
    here.identities, here.images = identities, images
    return faces


def _read_validation(config: TrainConfig) -> PairList | None:
    """The validation list, checked; None when the settings name none."""
    if config.val_list is None:
        return None
    pairs = PairList.read(config.val_list, config.val_dir)
    pairs.check_labels(config.val_list)
    return pairs


def _validate(network: nn.Module, spec: InputSpec, pairs: PairList, config: TrainConfig) -> float:
    """EER of the validation list, percent; leaves the network in evaluation mode."""
    embedder = Embedder.of_model(network.eval(), spec, config.embedding_size, quiet=True)
    return eer(score_pairs(embedder, pairs, config.val_dir), pairs.labels)


def _build_loss(config: TrainConfig, identities: int) -> nn.Module:
    names = ("margin", "scale", "mining", "temperature")
    settings = {name: getattr(config, name) for name in names}
    loss = build_loss(
        config.loss,
        embedding_size=config.embedding_size,
        num_classes=config.num_classes or identities,
        **{name: value for name, value in settings.items() if value is not None},
    )
    least = getattr(loss, "min_images_per_class", 1)
    if config.images_per_class < least:
        raise UserError(
            f"the loss {config.loss} compares images of one person: set images_per_class "
            f"(nPerClass) to {least} or more"
        )
    return loss


def _compares_images(loss: nn.Module) -> bool:
    """Whether a loss needs all faces of the batch at once; a plain module may not say."""
    return getattr(loss, "min_images_per_class", 1) > 1


def _sums(here: Position, device: torch.device) -> torch.Tensor:
    """Sums of loss and accuracy over the steps of this epoch, on the device."""
    precise = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor([here.loss_sum, here.accuracy_sum], dtype=precise, device=device)


def _note_unreadable(here: Position, names: list[str], config: TrainConfig) -> None:
    """Remember images that could not be decoded; UserError when they are more than 1 %."""
    new = sorted(set(names) - set(here.unreadable))
    here.unreadable.extend(new)
    if new and len(here.unreadable) > MOST_UNREADABLE * here.images:
        shown = ", ".join(here.unreadable[:10])
        raise UserError(
            f"{len(here.unreadable)} of {here.images} images in {config.train_dir} cannot be "
            f"decoded, more than 1 %: {shown}; mend or remove them"
        )


def _check_finite(loss: float, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss became {loss} in epoch {epoch + 1} before step {step}: "
            "lower lr, or train without mixed precision"
        )


def _keep_weights(folder: RunFolder, network, config, spec, here: Position, row: dict) -> None:
    """Write last.safetensors, and best.safetensors when no epoch before was as good.

    Without validation the last epoch counts as the best.
    """
    about = dict(model_name=config.model, embedding_size=config.embedding_size, input_spec=spec)
    save_weights(folder.last, network, **about)
    value = row["val_eer"]
    unvalidated = config.val_list is None
    if unvalidated or (
        value is not None and (here.best_val_eer is None or value < here.best_val_eer)
    ):
        here.best_val_eer, here.best_epoch = value, row["epoch"]
        save_weights(folder.best, network, **about)


def _save(folder: RunFolder, here: Position, module, optimizer, accelerator: Accelerator) -> None:
    """Write the state, after the weights that it speaks of, and the metrics after it."""
    if accelerator.is_main_process:
        scaler = accelerator.scaler
        folder.save_state(
            dict(
                position=vars(here),
                module=module.state_dict(),
                optimizer=optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                random=torch.get_rng_state(),
                random_cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            )
        )
        folder.write_metrics(here.rows)
    accelerator.wait_for_everyone()


def _restore(saved: dict, module, optimizer, accelerator: Accelerator) -> None:
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    if accelerator.scaler is not None and saved["scaler"]:
        accelerator.scaler.load_state_dict(saved["scaler"])
    torch.set_rng_state(saved["random"])
    if torch.cuda.is_available() and len(saved["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["random_cuda"])


def _end_if_stopped(stop: list[str], folder: RunFolder) -> None:
    if stop:
        raise Stopped(
            f"stopped by {stop[0]} with everything saved in {folder.path}: "
            "the same command goes on from here"
        )


def _line(row: dict, config: TrainConfig) -> str:
    """One epoch in words."""
    parts = [f"epoch {row['epoch']}/{config.max_epoch}: loss {row['train_loss']:.3f}"]
    if row["train_accuracy"] is not None:
        parts.append(f"accuracy {row['train_accuracy']:.1f} %")
    if row["val_eer"] is not None:
        parts.append(f"validation EER {row['val_eer']:.2f} %")
    parts += [f"lr {row['lr']:.2g}", f"{row['images_per_second']:.0f} images/s"]
    return ", ".join(parts)


def _result(folder: RunFolder, here: Position) -> TrainResult:
    return TrainResult(
        run_dir=folder.path,
        best_weights=folder.best,
        last_weights=folder.last,
        best_val_eer=here.best_val_eer,
        best_epoch=here.best_epoch,
        rows=here.rows,
        unreadable=here.unreadable,
    )

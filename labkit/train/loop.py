"""The training loop: batch, forward, loss, step, log, validate, save.

A run that was stopped goes on where it was when the same command is given again: whatever is
random in it is a function of the seed, the epoch and the step, and `last/state.pt` has the rest.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from torch import nn

from labkit.checkpoint import RunFolder, load_initial_weights
from labkit.config import TrainConfig
from labkit.data import PairList
from labkit.devices import make_accelerator, memory_format, memory_kept
from labkit.embed import Embedder
from labkit.errors import UserError
from labkit.evaluate import score_pairs
from labkit.losses import build_loss
from labkit.metrics import eer
from labkit.models import InputSpec, build_model, freeze_backbone
from labkit.optim import build_optimizer, build_schedule, set_learning_rate
from labkit.plugins import load_plugin
from labkit.progress import progress
from labkit.signals import StopAsked, stop_at_once, stop_signals
from labkit.train.processes import Processes
from labkit.train.run import (
    LossWatch,
    Position,
    TrainResult,
    check_data,
    end_if_stopped,
    keep_weights,
    line,
    note_unreadable,
    restore,
    save,
)
from labkit.train.step import TrainingStep, gradient_of
from labkit.train.watch import TensorBoard
from labkit.trainset import TrainingData

SECONDS_BETWEEN_LOSSES = 1.0


def fit(
    config: TrainConfig, *, after_epoch: Callable[[Path, list[dict]], None] | None = None
) -> TrainResult:
    """Train as `config` says, into `config.run_dir`, from the start or from where it stopped.

    after_epoch: called with the run folder and the rows of metrics.csv after every epoch.
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
        processes = Processes(accelerator)
        accelerator.wait_for_everyone()
        saved = folder.load_state()
        here = Position(**saved["position"]) if saved else Position()
        if here.epoch >= config.max_epoch:
            return here.result(folder)

        torch.manual_seed(config.seed)
        data = TrainingData.open(config, cache=folder.path / "train_scan.npz" if main else None)
        check_data(data, config, here)
        if data.too_few:
            accelerator.print(
                f"{data.where}: {data.too_few} of {data.identities} identities have fewer than "
                f"{config.images_per_class} images and are left out"
            )
        validation = _read_validation(config)
        loader = data.loader(
            device, rank=accelerator.process_index, processes=accelerator.num_processes
        )
        steps, images_per_step = len(loader), config.batch_size * config.images_per_class
        spec = InputSpec(image_size=config.image_size)
        network = build_model(config.model, config.embedding_size)
        if config.initial_weights and not saved:
            report = load_initial_weights(network, config.initial_weights)
            accelerator.print(f"{config.initial_weights}: {report.summary()}")
        network.to(device, memory_format=memory_format(device))
        loss_function = _build_loss(config, data.identities).to(device)
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
        gradient = gradient_of(trained, module, accelerator, config.images_at_once)
        board = TensorBoard(folder.path) if config.tensorboard and main else None
        losses = LossWatch(data, folder)
        if saved:
            restore(saved, module, optimizer, accelerator)
            accelerator.print(
                f"{folder.path}: going on in epoch {here.epoch + 1} after step {here.step}"
            )

        last_saved = time.monotonic()
        with stop_signals() as stop, closing(loader), memory_kept(device):
            for epoch in range(here.epoch, config.max_epoch):
                loader.set_epoch(epoch, here.step)
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
                    for batch in loader if here.step < steps else ():
                        set_learning_rate(optimizer, schedule(epoch + here.step / steps))
                        images = batch.images.to(device, non_blocking=True)
                        labels = batch.labels.to(device, non_blocking=True)
                        optimizer.zero_grad(set_to_none=True)
                        loss, accuracy = gradient(images, labels)
                        optimizer.step()

                        here.step += 1
                        sums[0] += loss.detach()
                        sums[1] += math.nan if accuracy is None else accuracy
                        losses.note(epoch, here.step, loss, batch.numbers)
                        bar.update(images_per_step)
                        now = time.monotonic()
                        due = now - last_saved > 60 * config.checkpoint_minutes
                        stopping, due, bad = processes.any(stop, due, batch.unreadable)
                        if bad:
                            note_unreadable(here, processes.together(batch.unreadable), data.where)
                        if now - shown > SECONDS_BETWEEN_LOSSES or here.step == steps:
                            shown = now
                            losses.check()
                            means = (sums / here.step).tolist()
                            bar.set_postfix_str(_progress_text(*means))
                        if (stopping or due) and here.step < steps:
                            losses.check()
                            here.loss_sum, here.accuracy_sum = processes.mean(sums).tolist()
                            save(folder, here, module, optimizer, accelerator)
                            last_saved = now
                            end_if_stopped(stopping, stop, folder)

                seconds = time.monotonic() - began
                here.loss_sum, here.accuracy_sum = processes.mean(sums).tolist()
                mean_accuracy = here.accuracy_sum / steps
                row = dict(
                    epoch=epoch + 1,
                    step=(epoch + 1) * steps,
                    lr=schedule(epoch + (steps - 1) / steps),
                    train_loss=here.loss_sum / steps,
                    train_accuracy=None if math.isnan(mean_accuracy) else mean_accuracy,
                    val_eer=None,
                    images_per_second=round((steps - first_step) * images_per_step / seconds, 1),
                    seconds=round(seconds, 1),
                )
                last_epoch = epoch + 1 == config.max_epoch
                if validation and (last_epoch or (epoch + 1) % config.val_interval == 0):
                    # The trained epoch is safe before validation, which a signal breaks off.
                    save(folder, here, module, optimizer, accelerator)
                    end_if_stopped(*processes.any(stop), stop, folder)
                    broken_off = False
                    if main:
                        try:
                            with stop_at_once(stop):
                                row["val_eer"] = _validate(network, spec, validation, config)
                        except StopAsked:
                            broken_off = True
                    end_if_stopped(*processes.any(broken_off), stop, folder)
                    row["val_eer"] = processes.from_main(row["val_eer"])
                best = here.add(row, validated=validation is not None)
                if main:
                    keep_weights(folder, network, config, spec, best=best)
                here.epoch, here.step, here.loss_sum, here.accuracy_sum = epoch + 1, 0, 0.0, 0.0
                accelerator.print(line(row, config))
                save(folder, here, module, optimizer, accelerator)
                last_saved = time.monotonic()
                if main and board:
                    board(row)
                if main and after_epoch:
                    after_epoch(folder.path, here.rows)
                if not last_epoch:
                    end_if_stopped(*processes.any(stop), stop, folder)
        if here.unreadable:
            accelerator.print(
                f"{len(here.unreadable)} images could not be decoded and were skipped: "
                + ", ".join(here.unreadable)
            )
        return here.result(folder)


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


def _sums(here: Position, device: torch.device) -> torch.Tensor:
    """Sums of loss and accuracy over the steps of this epoch, on the device."""
    precise = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor([here.loss_sum, here.accuracy_sum], dtype=precise, device=device)


def _progress_text(loss: float, accuracy: float) -> str:
    return f"loss {loss:.3f}" + ("" if math.isnan(accuracy) else f", accuracy {accuracy:.1f} %")

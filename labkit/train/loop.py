"""The training loop: batch, forward, loss, step, log, validate, save.

A run that was stopped goes on where it was when the same command is given again: whatever is
random in it is a function of the seed, the epoch and the step, and `last/state.pt` has the rest.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch
from torch import nn

from labkit.checkpoint import RunFolder, load_initial_weights
from labkit.config import TrainConfig
from labkit.data import PairList
from labkit.devices import make_accelerator, memory_format, memory_kept
from labkit.embed import Embedder
from labkit.evaluate import score_pairs
from labkit.metrics import eer
from labkit.models import InputSpec, build_model, freeze_backbone
from labkit.optim import build_optimizer, build_schedule, set_learning_rate
from labkit.registry import load_plugin
from labkit.signals import StopAsked, stop_at_once, stop_signals
from labkit.train.checks import check_data, checked_loss, read_validation, try_out
from labkit.train.processes import Processes
from labkit.train.run import (
    LossWatch,
    Position,
    TrainResult,
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
from labkit.utils import progress

SECONDS_BETWEEN_LOSSES = 1.0


def fit(
    config: TrainConfig, *, after_epoch: Callable[[Path, list[dict]], None] | None = None
) -> TrainResult:
    """Train as `config` says, into `config.run_dir`, from the start or from where it stopped.

    after_epoch: called with the run folder and the rows of metrics.csv after every epoch.
    Raises UserError, before training begins, for settings that do not fit each other or the
    data; `Stopped` after SIGTERM or Ctrl-C, with the state saved.
    """
    accelerator = make_accelerator(config.device, mixed=config.mixed_precision)
    processes, device = Processes(accelerator), accelerator.device
    folder = RunFolder(config.run_dir)
    with processes, ExitStack() as locked:

        def begin() -> dict:
            locked.enter_context(folder)
            return folder.begin(config)

        earlier = processes.by_main(begin)
        saved = folder.load_state()
        here = Position(**saved["position"]) if saved else Position()
        if saved:  # a kill between the state and the metrics has left these an epoch behind
            processes.by_main(lambda: folder.write_metrics(here.rows))
        if here.epoch >= config.max_epoch:
            return here.result(folder)

        if config.plugin:
            with processes.agreed():
                load_plugin(config.plugin)
        torch.manual_seed(config.seed)
        scan = partial(TrainingData.open, config, cache=folder.path / "train_scan.npz")
        # The others read what the main process has listed.
        data = processes.by_main(scan, share=False) or scan()
        validating = config.val_list is not None
        validation = None
        if validating:
            validation = processes.by_main(partial(read_validation, config), share=False)
        with processes.agreed():
            check_data(data, config, here, accelerator.num_processes)
            loader = data.loader(
                device, rank=accelerator.process_index, processes=accelerator.num_processes
            )
            spec = InputSpec(image_size=config.image_size)
            network = build_model(config.model, config.embedding_size)
            if config.initial_weights and not saved:
                report = load_initial_weights(network, config.initial_weights)
                accelerator.print(f"{config.initial_weights}: {report.summary()}")
            loss_function = checked_loss(config, data.identities)
            unused = try_out(network, loss_function, spec, config)
            network.to(device, memory_format=memory_format(device))
            module = TrainingStep(network, loss_function.to(device), spec, config.compile)
            optimizer = build_optimizer(
                config.optimizer, module, lr=config.lr, weight_decay=config.weight_decay
            )
            schedule = _schedule(config, config.max_epoch)
        if data.too_few:
            accelerator.print(
                f"{data.where}: {data.too_few} of {data.identities} identities have fewer than "
                f"{config.images_per_class} images and are left out"
            )
        steps, images_per_step = len(loader), config.batch_size * config.images_per_class
        accelerator.ddp_handler.find_unused_parameters = unused or config.freeze_epochs > 0
        trained, optimizer = accelerator.prepare(module, optimizer)
        gradient = gradient_of(trained, module, accelerator, config.images_at_once)
        board = None
        if config.tensorboard:
            board = processes.by_main(partial(TensorBoard, folder.path), share=False)
        losses = LossWatch(data, folder, processes)
        save_state = partial(save, folder, here, module, optimizer, accelerator)
        if saved:
            with processes.agreed():
                restore(folder, saved, module, optimizer, accelerator)
            accelerator.print(
                f"{folder.path}: going on in epoch {here.epoch + 1} after step {here.step}"
            )
            accelerator.print(_other_end(config, earlier, here.epoch), end="")

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
                    quiet=not processes.main,
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
                        look = now - shown > SECONDS_BETWEEN_LOSSES or here.step == steps
                        stopping, due, unreadable, failed = processes.any(
                            stop, due, batch.unreadable, look and losses.bad()
                        )
                        if unreadable:
                            names = processes.everyones(batch.unreadable)
                            note_unreadable(here, sum(names, []), data.where)
                        if failed:
                            losses.complain()
                        if look:
                            shown = now
                            means = (sums / here.step).tolist()
                            bar.set_postfix_str(_progress_text(*means))
                        if (stopping or due) and here.step < steps:
                            if any(processes.any(losses.bad())):
                                losses.complain()
                            here.loss_sum, here.accuracy_sum = processes.mean(sums).tolist()
                            processes.by_main(save_state)
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
                if validating and (last_epoch or (epoch + 1) % config.val_interval == 0):
                    # The trained epoch is safe before validation, which a signal breaks off.
                    processes.by_main(save_state)
                    end_if_stopped(*processes.any(stop), stop, folder)
                    row["val_eer"] = processes.by_main(
                        partial(_validate, network, spec, validation, config, stop)
                    )
                    end_if_stopped(row["val_eer"] is None, stop, folder)
                best = here.add(row, validated=validating)
                here.epoch, here.step, here.loss_sum, here.accuracy_sum = epoch + 1, 0, 0.0, 0.0
                accelerator.print(line(row, config))
                processes.by_main(partial(keep_weights, folder, network, config, spec, best=best))
                processes.by_main(save_state)
                last_saved = time.monotonic()
                if board:
                    board(row)
                if processes.main and after_epoch:
                    after_epoch(folder.path, here.rows)
                if not last_epoch:
                    end_if_stopped(*processes.any(stop), stop, folder)
        if here.unreadable:
            accelerator.print(
                f"{len(here.unreadable)} images could not be decoded and were skipped: "
                + ", ".join(here.unreadable)
            )
        return here.result(folder)


def _validate(
    network: nn.Module, spec: InputSpec, pairs: PairList, config: TrainConfig, stop: list[str]
) -> float | None:
    """EER of the validation list, percent, or None when a signal broke it off, noted in `stop`.

    Leaves the network in evaluation mode.
    """
    embedder = Embedder.of_model(network.eval(), spec, config.embedding_size, quiet=True)
    try:
        with stop_at_once(stop):
            return eer(score_pairs(embedder, pairs, config.val_dir), pairs.labels)
    except StopAsked:
        return None


def _schedule(config: TrainConfig, max_epoch: int) -> Callable[[float], float]:
    """The learning rate by the epochs trained, for a run of `max_epoch` epochs."""
    return build_schedule(
        config.scheduler,
        lr=config.lr,
        max_epoch=max_epoch,
        lr_decay=config.lr_decay,
        lr_step_epochs=config.lr_step_epochs,
        restart_epochs=config.restart_epochs,
        min_lr=config.min_lr,
        warmup_epochs=config.warmup_epochs,
    )


def _other_end(config: TrainConfig, earlier: dict, epoch: int) -> str:
    """A line for a run that goes on to another `max_epoch`, where that moves the learning rate."""
    before = earlier.get("max_epoch") or config.max_epoch
    now, then = _schedule(config, config.max_epoch), _schedule(config, before)
    for place in range(epoch, min(before, config.max_epoch) + 1):
        lr, was = now(place), then(place)
        if not math.isclose(lr, was):
            return (
                f"the {config.scheduler} schedule ends with epoch {config.max_epoch} now, not "
                f"{before}: the learning rate after {place} epochs is {lr:.2g} instead of "
                f"{was:.2g}\n"
            )
    return ""


def _sums(here: Position, device: torch.device) -> torch.Tensor:
    """Sums of loss and accuracy over the steps of this epoch, on the device."""
    precise = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor([here.loss_sum, here.accuracy_sum], dtype=precise, device=device)


def _progress_text(loss: float, accuracy: float) -> str:
    return f"loss {loss:.3f}" + ("" if math.isnan(accuracy) else f", accuracy {accuracy:.1f} %")

"""The training loop, from top to bottom: batch, forward, loss, backward, step, log, validate, save.

    labkit train --train_dir data/pretrain --run_dir runs/first --loss amsoftmax
    torchrun --nproc-per-node 4 -m labkit train --config run.yaml

A run that was stopped goes on where it was when the same command is given again: whatever is
random in it is a function of the seed, the epoch and the step, and `last/state.pt` has the rest.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from labkit import devices
from labkit.checkpoint import (
    RunFolder,
    TrainingState,
    TrainResult,
    load_initial_weights,
    save_weights,
)
from labkit.checks import build_and_check_loss, check_data, check_network_and_loss
from labkit.config import TrainConfig
from labkit.data import FaceFolder, PairList, TrainingBatch, close_loader, train_loader
from labkit.distributed import Processes, over_all_processes
from labkit.embed import Embedder
from labkit.gradcache import cached_gradient
from labkit.losses import LossOutput
from labkit.losslog import LossLog
from labkit.metrics import eer, pair_similarities
from labkit.models import InputSpec, build_model, freeze_backbone, normalize
from labkit.registry import load_plugin
from labkit.utils import StopNow, Stopped, StopSignals, UserError, progress, short_reason

STEPS_BETWEEN_LOGS = 10
OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}


def train_step(
    network: nn.Module,
    loss: nn.Module,
    batch: TrainingBatch,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    spec: InputSpec,
    images_at_once: int | None = None,
) -> LossOutput:
    """Take one step of training and return the loss and the accuracy of the batch.

    batch.images: uint8 (batch, images_per_class, 3, size, size); batch.labels: int64 (batch,).
    With `images_at_once` the gradient is the same, computed in chunks that need less memory.
    A loss of your own may return a plain tuple, hence `output[0]` for the loss.
    """
    images = batch.images.to(accelerator.device, non_blocking=True)
    labels = batch.labels.to(accelerator.device, non_blocking=True)
    optimizer.zero_grad(set_to_none=True)
    if images_at_once is None:
        with accelerator.autocast():
            embeddings = network(normalize(images.flatten(0, 1), spec))
            output = loss(embeddings.view(*images.shape[:2], -1), labels)
        accelerator.backward(output[0])
    else:
        output = cached_gradient(
            network, loss, images, labels, accelerator, spec, images_at_once=images_at_once
        )
    optimizer.step()
    return output


def lr_at(config: TrainConfig, epoch: float) -> float:
    """Return the learning rate at a position in epochs (2.5 is the middle of the third epoch).

    A plain function of the position, so that a resumed run goes on with the very same rates.
    steplr: lr · lr_decay^⌊epoch / lr_step_epochs⌋. cosine: half a cosine from lr to min_lr at
    max_epoch; cosine_restart: begun anew every restart_epochs. Warm-up scales the first
    warmup_epochs by a line from 1 % to 1. Source of the cosines: SGDR (Loshchilov and Hutter,
    2017, arXiv:1608.03983), equation 5.
    """
    if config.scheduler == "steplr":
        lr = config.lr * config.lr_decay ** math.floor(epoch / config.lr_step_epochs)
    else:
        if config.scheduler == "cosine":
            part = min(epoch / config.max_epoch, 1.0)
        else:
            part = math.fmod(epoch, config.restart_epochs) / config.restart_epochs
        lr = config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * part)) / 2
    if epoch < config.warmup_epochs:
        lr *= 0.01 + 0.99 * epoch / config.warmup_epochs
    return lr


def validate(network: nn.Module, spec: InputSpec, pairs: PairList, config: TrainConfig) -> float:
    """Return the EER of the validation list, percent. Leaves the network in evaluation mode."""
    embedder = Embedder.of_model(network.eval(), spec, config.embedding_size, quiet=True)
    embeddings = embedder.files([*map(pairs.find(config.val_dir), pairs.files)])
    return eer(pair_similarities(embeddings, pairs.left, pairs.right), pairs.labels)


def fit(
    config: TrainConfig, *, after_epoch: Callable[[Path, list[dict]], None] | None = None
) -> TrainResult:
    """Train as `config` says, into `config.run_dir`, from the start or from where it stopped.

    after_epoch: called with the run folder and the rows of metrics.csv after every epoch.
    Raises UserError, before training begins, for settings that do not fit each other or the
    data; `Stopped` after SIGTERM or Ctrl-C, with the training state saved.
    """
    accelerator = devices.make_accelerator(config.device, mixed=config.mixed_precision)
    device, processes = accelerator.device, Processes(accelerator)
    folder, cleanup = RunFolder(config.run_dir), ExitStack()
    with devices.memory_told(device), cleanup:
        torch.manual_seed(config.seed)
        if config.plugin:
            load_plugin(config.plugin)
        processes.on_main(lambda: cleanup.enter_context(folder.open(config)))
        saved = folder.load_state()
        state = TrainingState(**saved["position"]) if saved else TrainingState()
        if saved:  # a kill after the state, before metrics.csv, has left that an epoch behind
            processes.on_main(lambda: folder.write_metrics(state.rows))
        if state.epoch >= config.max_epoch:
            accelerator.print(f"{folder.path}: {state.epoch} epochs are trained, nothing to do")
            return folder.result(state)

        # Data, network, loss, optimizer
        scan = partial(FaceFolder.scan, config.train_dir, extensions=config.train_extensions)
        faces = processes.on_main(lambda: scan(cache=folder.path / "train_scan.npz"))
        pairs = processes.on_main(lambda: _validation_pairs(config)) if config.val_list else None
        accelerator.print(check_data(faces, config, state, processes.count), end="")
        workers = 0 if config.workers is None and device.type == "cpu" else config.workers
        share = dict(rank=processes.rank, processes=processes.count)
        pinned = device.type == "cuda"
        loader = train_loader(faces, config, workers=workers, pin_memory=pinned, **share)
        cleanup.callback(close_loader, loader)
        spec = InputSpec(image_size=config.image_size)
        network = build_model(config.model, config.embedding_size)
        if config.initial_weights and not saved:
            report = load_initial_weights(network, config.initial_weights)
            accelerator.print(f"{config.initial_weights}: {report}")
        loss = build_and_check_loss(config, len(faces.identities))
        some_unused = check_network_and_loss(network, loss, spec, config)
        some_unused = some_unused or config.freeze_epochs > 0
        network.to(device, memory_format=devices.memory_format(device))
        network_and_loss = nn.ModuleDict(dict(network=network, loss=loss.to(device)))
        how = dict(lr=config.lr, weight_decay=config.weight_decay)
        how["fused"] = device.type in ("cpu", "cuda")
        optimizer = OPTIMIZERS[config.optimizer](network_and_loss.parameters(), **how)
        optimizer = accelerator.prepare(optimizer)
        run = _Run(folder, state, network_and_loss, optimizer, accelerator)
        if saved:
            run.restore(saved)
            where = f"in epoch {state.epoch + 1} after step {state.step}"
            accelerator.print(f"{folder.path}: going on {where}")
        # The same weights as `network` and `loss`; their gradients are averaged over processes.
        parallel_network = torch.compile(network) if config.compile else network
        parallel_network = processes.wrap(parallel_network, find_unused=some_unused)
        parallel_loss = processes.wrap(loss, find_unused=some_unused)
        if processes.count > 1 and getattr(loss, "min_images_per_class", 1) > 1:
            parallel_loss = over_all_processes(parallel_loss)
        about = dict(model_name=config.model, embedding_size=config.embedding_size, input_spec=spec)

        devices.keep_freed_memory(device)
        stop = cleanup.enter_context(StopSignals())
        steps, images_per_step = len(loader), config.batch_size * config.images_per_class
        last_saved = time.monotonic()
        for epoch in range(state.epoch, config.max_epoch):
            parallel_network.train()
            loss.train()
            if config.freeze_epochs:
                freeze_backbone(network, epoch < config.freeze_epochs)
            loader.sampler.set_epoch(epoch, state.step)
            log = LossLog(state, faces, folder, processes, config)
            began, first_step = time.monotonic(), state.step
            shown = dict(desc=f"epoch {epoch + 1}/{config.max_epoch}", unit="image", leave=False)
            images_left = (steps - first_step) * images_per_step
            with progress(total=images_left, quiet=not processes.main, **shown) as bar:
                # After the last step of an epoch a resumed run has its validation left alone.
                for batch in loader if first_step < steps else ():
                    for group in optimizer.param_groups:
                        group["lr"] = lr_at(config, epoch + state.step / steps)
                    output = train_step(
                        parallel_network, parallel_loss, batch, optimizer, accelerator, spec,
                        config.images_at_once,
                    )  # fmt: skip
                    state.step += 1
                    log.add(output, batch)
                    bar.update(images_per_step)
                    stopping = bool(stop)
                    due = time.monotonic() - last_saved > 60 * config.checkpoint_minutes
                    if processes.count > 1:
                        stopping, due = processes.any(stopping, due)
                    save_now = (stopping or due) and state.step < steps
                    if save_now or state.step % STEPS_BETWEEN_LOGS == 0 or state.step == steps:
                        means = log.update_state()
                        bar.set_postfix_str(means)
                    if save_now:
                        processes.on_main(run.save)
                        last_saved = time.monotonic()
                        _raise_if(stopping, stop, folder)

            row = _row(state, steps, config, time.monotonic() - began, first_step)
            last = epoch + 1 == config.max_epoch
            if pairs and (last or (epoch + 1) % config.val_interval == 0):
                # Saved before validation, which a signal may interrupt.
                processes.on_main(run.save)
                _raise_if(processes.any(stop)[0], stop, folder)
                row["val_eer"] = processes.on_main(
                    lambda: _validate_or_stop(network, spec, pairs, config, stop)
                )
                _raise_if(row["val_eer"] is None, stop, folder)
            is_best = state.end_epoch(row, validated=bool(pairs))
            accelerator.print(_line(row, config))
            for path in [folder.last, folder.best] if is_best else [folder.last]:
                processes.on_main(partial(save_weights, path, network, **about))
            processes.on_main(partial(run.save, to_train_on=not (last and config.drop_optimizer)))
            last_saved = time.monotonic()
            if processes.main and config.tensorboard:
                folder.write_tensorboard(row)
            if processes.main and after_epoch:
                after_epoch(folder.path, state.rows)
            if not last:
                _raise_if(processes.any(stop)[0], stop, folder)
        if state.unreadable:
            names = ", ".join(state.unreadable)
            accelerator.print(f"{len(state.unreadable)} images were skipped, unreadable: {names}")
        processes.finish()
        return folder.result(state)


@dataclass
class _Run:
    """All that is saved and restored, and the run folder it is kept in."""

    folder: RunFolder
    state: TrainingState
    network_and_loss: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator

    def save(self, to_train_on: bool = True) -> None:
        """Write all that resuming needs as one file, and metrics.csv after it.

        Without `to_train_on` that is only how far the run has come.
        """
        state, scaler = self.state, self.accelerator.scaler
        for name, value in self.network_and_loss.named_parameters():
            if not bool(torch.isfinite(value).all()):
                where = f"no longer numbers after step {state.step} of epoch {state.epoch + 1}"
                advice = "lower lr, or train without mixed precision"
                last = self.folder.last_checkpoint()
                raise UserError(f"the weights {name} are {where}; {last}: {advice}")
        saved: dict = dict(position=vars(state))
        if to_train_on:
            saved["module"] = self.network_and_loss.state_dict()
            saved["optimizer"] = self.optimizer.state_dict()
            saved["scaler"] = scaler and scaler.state_dict()
            saved["random"] = devices.random_state(self.accelerator.device)
        self.folder.save_state(saved)
        self.folder.write_metrics(state.rows)

    def restore(self, saved: dict) -> None:
        """Bring back what `save` has written; UserError when it is of another network."""
        if "optimizer" not in saved:
            what = f"{self.folder.path} has finished without its optimizer (drop_optimizer)"
            advice = f"choose another run folder; initial_weights: {self.folder.last} goes on there"
            raise UserError(f"{what}, and cannot be trained on: {advice}")
        try:
            self.network_and_loss.load_state_dict(saved["module"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            what = f"the network or the loss is not that of {self.folder.path}"
            raise UserError(f"{what} ({short_reason(error)}): choose another run folder") from error
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        devices.set_random_state(saved["random"], self.accelerator.device)


def _validation_pairs(config: TrainConfig) -> PairList:
    pairs = PairList.read(config.val_list, config.val_dir)
    pairs.check_labels(config.val_list)
    return pairs


def _validate_or_stop(
    network: nn.Module, spec: InputSpec, pairs: PairList, config: TrainConfig, stop: StopSignals
) -> float | None:
    """The validation EER, or None when a signal has broken it off."""
    stop.at_once = True
    try:
        return validate(network, spec, pairs, config)
    except StopNow:
        return None
    finally:
        stop.at_once = False


def _raise_if(stopping: bool, stop: StopSignals, folder: RunFolder) -> None:
    if stopping:
        what = f"stopped by {stop.name or 'a signal to another process'} with everything saved in"
        raise Stopped(f"{what} {folder.path}: the same command goes on from here")


def _row(
    state: TrainingState, steps: int, config: TrainConfig, seconds: float, first_step: int
) -> dict:
    """The row of metrics.csv for an epoch whose steps are done."""
    images = (steps - first_step) * config.batch_size * config.images_per_class
    accuracy = state.accuracy_sum / steps
    return dict(
        epoch=state.epoch + 1,
        step=(state.epoch + 1) * steps,
        lr=lr_at(config, state.epoch + (steps - 1) / steps),
        train_loss=state.loss_sum / steps,
        train_accuracy=None if math.isnan(accuracy) else accuracy,
        val_eer=None,
        images_per_second=round(images / seconds, 1),
        seconds=round(seconds, 1),
    )


def _line(row: dict, config: TrainConfig) -> str:
    """One epoch in words."""
    accuracy, eer = row["train_accuracy"], row["val_eer"]
    line = f"epoch {row['epoch']}/{config.max_epoch}: loss {row['train_loss']:.3f}"
    line += "" if accuracy is None else f", accuracy {accuracy:.1f} %"
    line += "" if eer is None else f", validation EER {eer:.2f} %"
    return f"{line}, lr {row['lr']:.2g}, {row['images_per_second']:.0f} images/s"

"""The losses of an epoch: their mean, and which batch gave a loss that is not finite."""

import math

import torch

from labkit.checkpoint import RunFolder, TrainingState
from labkit.config import TrainConfig
from labkit.data import FaceFolder, TrainingBatch
from labkit.distributed import Processes
from labkit.losses import LossOutput
from labkit.registry import LOSSES, is_built_in
from labkit.utils import UserError, write_text

MAX_UNREADABLE = 0.01  # a run stops when more of its images than this cannot be decoded


class LossLog:
    """Sums losses and accuracies on the device, and reads them only now and then.

    Reading a sum waits for the device, a step does not. The losses since the last reading are kept
    with the indices of their images, so that a loss that is not finite can be traced to its batch.
    """

    def __init__(
        self, state: TrainingState, faces: FaceFolder, folder: RunFolder, processes: Processes,
        config: TrainConfig,
    ):  # fmt: skip
        self.state, self.faces, self.folder, self.processes = state, faces, folder, processes
        self.own_loss = "" if is_built_in(LOSSES.get(config.loss)) else config.loss
        precise = torch.float32 if processes.device.type == "mps" else torch.float64
        sums = [state.loss_sum, state.accuracy_sum]
        self.sums = torch.tensor(sums, dtype=precise, device=processes.device)
        self.recent: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def add(self, output: LossOutput, batch: TrainingBatch) -> None:
        """Take in the loss of a step."""
        loss, accuracy = output
        self.sums[0] += loss.detach()
        self.sums[1] += math.nan if accuracy is None else accuracy
        self.recent.append((self.state.step, loss.detach(), batch.indices))
        self.state.unreadable += [n for n in batch.unreadable if n not in self.state.unreadable]

    def update_state(self) -> str:
        """Bring the state's sums up to date; return the mean loss and accuracy in words.

        Raises UserError, in all processes, when a loss since the last reading is not finite or
        more than 1 % of the images cannot be decoded.
        """
        state, losses = self.state, [loss for _, loss, _ in self.recent]
        finite = torch.isfinite(torch.stack(losses)).tolist() if losses else []
        bad = [entry for entry, good in zip(self.recent, finite) if not good]
        if any(self.processes.any(bad)):
            self._refuse(bad[:1])
        self.recent.clear()
        names = {name for some in self.processes.gather(state.unreadable) for name in some}
        state.unreadable = sorted(names)
        if len(names) > MAX_UNREADABLE * state.images:
            what = f"{len(names)} of {state.images} images in {self.faces.root} cannot be decoded"
            some = ", ".join(state.unreadable[:10])
            raise UserError(f"{what}, more than 1 %: {some}; mend them or remove them")
        state.loss_sum, state.accuracy_sum = self.processes.mean(self.sums)
        loss, accuracy = state.loss_sum / state.step, state.accuracy_sum / state.step
        return f"loss {loss:.3f}" + ("" if math.isnan(accuracy) else f", accuracy {accuracy:.1f} %")

    def _refuse(self, bad: list[tuple[int, torch.Tensor, torch.Tensor]]) -> None:
        """Raise UserError that names the first bad step of all processes and its images."""
        own = [
            (step, float(loss), [self.faces.name(int(i)) for i in indices.flatten()])
            for step, loss, indices in bad
        ]
        step, loss, names = min(sum(self.processes.gather(own), []))
        advice = "lower lr, or train without mixed precision"
        if self.own_loss:
            look = "look for a log or square root of 0 or a division by 0, in its gradient too"
            advice = f"the loss {self.own_loss} is your own: {look}, or {advice}"
        listed = self.folder.path / "failed_batch.txt"
        self.processes.on_main(lambda: write_text(listed, "\n".join(names) + "\n"))
        where = f"in step {step} of epoch {self.state.epoch + 1}, on the batch"
        some = f"{', '.join(names[:5])}{', …' * (len(names) > 5)} (all in {listed})"
        last = self.folder.last_checkpoint()
        raise UserError(f"the loss became {loss} {where} {some}; {last}: {advice}")

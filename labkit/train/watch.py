"""Seeing a run while it goes on: curves in the notebook, TensorBoard."""

from pathlib import Path

from labkit.plots import training_curves
from labkit.utils import UserError, in_live_notebook

_shown: dict[str, object] = {}


def show_curves(run_dir: Path, rows: list[dict]) -> None:
    """Draw the curves of a run below the running cell, in the place of those drawn before.

    Made for `fit(config, after_epoch=show_curves)`. Where no person watches (a script, papermill)
    it does nothing.
    """
    if not in_live_notebook():
        return
    from IPython.display import display

    figure = training_curves(run_dir)
    if len(rows) == 1 or str(run_dir) not in _shown:
        _shown[str(run_dir)] = display(figure, display_id=True)
    else:
        _shown[str(run_dir)].update(figure)


class TensorBoard:
    """Writes the rows of metrics.csv for TensorBoard, in the run folder's `tensorboard/`."""

    def __init__(self, run_dir: Path):
        """Raises UserError when the tensorboard package is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tensorboard: true needs the tensorboard package; "
                "pip install 'kstar-facelab[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(Path(run_dir) / "tensorboard"))

    def __call__(self, row: dict) -> None:
        for name, value in row.items():
            if value is not None and name not in ("epoch", "step"):
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

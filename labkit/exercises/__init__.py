"""The exercises of the notebooks, and what checks an answer to them.

One module per notebook. `check("1.2", am_softmax)` in a notebook prints a tick or one sentence;
`data_scripts/grade.py` gives the same exercises other inputs and counts the points.
"""

import shutil

from labkit.config import TrainConfig
from labkit.exercises import evaluate, facemap, finetune, lookalike, pretrain
from labkit.exercises.core import EXERCISES, Exercise, Mistake, check
from labkit.exercises.evaluate import groups_of
from labkit.train import TrainResult, fit

# Settings for `lab.config` that train in seconds, for what a student has written.
QUICK = dict(image_size=48, batch_size=32, max_images_per_class=4, max_epoch=2, warmup_epochs=0)


def train_quickly(config: TrainConfig) -> TrainResult:
    """Train, and keep the curves alone: an exercise needs no weights, which take 100 MB."""
    result = fit(config)
    for path in (result.best_weights, result.last_weights):
        path.unlink(missing_ok=True)
    shutil.rmtree(result.run_dir / "last")
    return result

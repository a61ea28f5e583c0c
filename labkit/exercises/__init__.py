"""The exercises of the notebooks, and what checks an answer to them.

One module per notebook. `check("1.2", am_softmax)` in a notebook prints a tick or one sentence;
`data_scripts/grade.py` gives the same exercises other inputs and counts the points.
"""

from labkit.exercises import evaluate, facemap, finetune, lookalike, pretrain
from labkit.exercises.core import EXERCISES, Exercise, Mistake, check
from labkit.exercises.evaluate import groups_of

# Settings for `lab.config` that train in seconds, for what a student has written.
QUICK = dict(image_size=48, batch_size=32, max_images_per_class=4, max_epoch=2, warmup_epochs=0)

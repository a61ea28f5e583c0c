"""The exercises of the notebooks, and what checks an answer to them.

One module per notebook. `check("1.2", am_softmax)` in a notebook prints a tick or one sentence;
`data_scripts/grade.py` gives the same exercises other inputs and counts the points.
"""

from labkit.exercises import evaluate, facemap, finetune, lookalike, pretrain
from labkit.exercises.core import EXERCISES, Exercise, Mistake, check

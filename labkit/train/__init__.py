"""Training a network.

    labkit train --config run.yaml
    labkit train --train_path data/pretrain --save_path runs/first --trainfunc amsoftmax
    torchrun --nproc-per-node 4 -m labkit train --config run.yaml
    result = launch(config, num_processes=4)        # the same from a notebook

The loop itself, from top to bottom, is `labkit.train.loop.fit`.
"""

from labkit.train.launch import launch
from labkit.train.loop import fit
from labkit.train.run import TrainResult
from labkit.train.watch import show_curves
from labkit.utils import Stopped

__all__ = ["Stopped", "TrainResult", "fit", "launch", "show_curves"]

"""Face folders, pair lists, decoded images and the batches made of them."""

from labkit.data.directory import DataDirectory
from labkit.data.folders import IMAGE_EXTENSIONS, FaceFolder
from labkit.data.images import centre_crop, decode_image
from labkit.data.loader import (
    IdentityBatchSampler,
    TrainingBatch,
    TrainingImages,
    close_loader,
    train_loader,
)
from labkit.data.pairs import PairList, bad_lines, make_pairs

__all__ = [
    "IMAGE_EXTENSIONS",
    "DataDirectory",
    "FaceFolder",
    "IdentityBatchSampler",
    "PairList",
    "TrainingBatch",
    "TrainingImages",
    "bad_lines",
    "centre_crop",
    "close_loader",
    "decode_image",
    "make_pairs",
    "train_loader",
]

"""Face folders, pair lists, decoded images and the batches made of them."""

from labkit.data.directory import DataDirectory
from labkit.data.folders import IMAGE_EXTENSIONS, FaceFolder
from labkit.data.images import centre_crop, decode_image, decode_pixels, random_resized_crop
from labkit.data.loader import (
    IdentityBatchSampler,
    TrainingBatch,
    TrainingImages,
    close_loader,
    train_loader,
)
from labkit.data.pairs import PairList, bad_lines, check_relative, make_pairs

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
    "check_relative",
    "close_loader",
    "decode_image",
    "decode_pixels",
    "make_pairs",
    "random_resized_crop",
    "train_loader",
]

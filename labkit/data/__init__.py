"""What is on disk, whether it is in order, and how it becomes batches."""

from labkit.data.batches import IdentityBatchSampler, TrainingBatch
from labkit.data.directory import DataDirectory
from labkit.data.folders import IMAGE_EXTENSIONS, FaceFolder
from labkit.data.images import centre_crop, decode_image, decode_pixels, random_resized_crop
from labkit.data.loading import TrainingImages, train_loader
from labkit.data.pairs import PairList, bad_lines, check_relative, make_pairs, shown

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
    "decode_image",
    "decode_pixels",
    "make_pairs",
    "random_resized_crop",
    "shown",
    "train_loader",
]

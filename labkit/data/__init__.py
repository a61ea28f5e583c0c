"""Face folders, pair lists, decoded images and the batches made of them."""

from labkit.data.directory import DataDirectory
from labkit.data.folders import FaceFolder, is_litter
from labkit.data.images import IMAGE_EXTENSIONS, centre_crop, decode_image
from labkit.data.loader import IdentityBatchSampler, TrainingBatch, close_loader, train_loader
from labkit.data.pairs import PairList, bad_lines, make_pairs

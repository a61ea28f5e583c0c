"""Rendered faces: people who do not exist, photographed as often as wanted."""

from labkit.synth.dataset import SynthSizes, make_data_directory, make_dataset
from labkit.synth.head import head_file
from labkit.synth.people import KStars, World
from labkit.synth.render import find_landmarks, guest_photo, render

__all__ = [
    "KStars",
    "SynthSizes",
    "World",
    "find_landmarks",
    "guest_photo",
    "head_file",
    "make_data_directory",
    "make_dataset",
    "render",
]

"""Rendered people to train on without a folder."""

import re

import numpy as np
import pytest
import torch

from labkit.config import TrainConfig
from labkit.data import IdentityBatchSampler
from labkit.synth import FreshFaces, KStars, RenderedPeople, World, find_landmarks, render
from labkit.train import fit
from labkit.trainset import TrainingData
from labkit.utils import UserError

PEOPLE = "synth:world,identities=6,seed=3"


def settings(tmp_path, **changes) -> TrainConfig:
    small = dict(
        run_dir=str(tmp_path / "run"), train_dir=PEOPLE, model="ThinResNet34", embedding_size=16,
        image_size=32, batch_size=4, max_images_per_class=2, max_epoch=2, device="cpu",
    )  # fmt: skip
    return TrainConfig(**(small | changes))


def batches_of(epoch: int, tmp_path, **changes) -> list:
    loader = TrainingData.open(settings(tmp_path, **changes)).loader()
    loader.set_epoch(epoch)
    return list(loader)


def test_an_epoch_can_be_repeated_and_the_next_shows_new_photographs(tmp_path):
    first, again, later = (batches_of(epoch, tmp_path) for epoch in (0, 0, 1))
    assert len(first) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    seen = {image.numpy().tobytes() for batch in first for image in batch.images.flatten(0, 1)}
    new = {image.numpy().tobytes() for batch in later for image in batch.images.flatten(0, 1)}
    assert len(seen) == len(new) == 12
    assert not seen & new


def test_a_batch_has_different_people_and_their_own_photographs(tmp_path):
    for batch in batches_of(0, tmp_path, images_per_class=2):
        assert batch.images.shape == (4, 2, 3, 32, 32) and batch.images.dtype == torch.uint8
        assert len(set(batch.labels.tolist())) == 4
        assert not batch.unreadable


def test_workers_draw_the_same_pictures(tmp_path):
    alone, helped = (batches_of(1, tmp_path, workers=workers) for workers in (0, 2))
    for one, two in zip(alone, helped, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


def test_processes_share_the_batches_of_one(tmp_path):
    data = TrainingData.open(settings(tmp_path))
    whole = list(data.loader())
    parts = [list(data.loader(rank=rank, processes=2)) for rank in range(2)]
    for batch, one, two in zip(whole, *parts, strict=True):
        assert torch.equal(batch.images, torch.cat([one.images, two.images]))


def test_pictures_show_the_part_that_the_camera_was_pointed_at():
    """Drawn closer, a picture is the usual one cut and enlarged, to a pixel or so."""
    people = RenderedPeople(World(0), 4, 1)
    sampler = IdentityBatchSampler(people, batch_size=4)
    shots = FreshFaces(people, image_size=96, mirror=False).__getitems__(next(iter(sampler)))
    numbers = [person.number for person in shots.persons]
    _, usual = render(World(0), numbers, [0] * 4, 96, landmarks=True)
    closer = find_landmarks(shots.persons, shots.photos, 96)
    grown = (closer[:, 0] - closer[:, 1]).norm(dim=1) / (usual[:, 0] - usual[:, 1]).norm(dim=1)
    assert ((grown > 0.999) & (grown < 1 / np.sqrt(0.8) + 0.001)).all()
    assert grown.std() > 0.01


def test_mirrored_pictures_are_the_others_flipped():
    people = RenderedPeople(KStars(0), 12, 1)
    items = next(iter(IdentityBatchSampler(people, batch_size=12)))
    plain, flipped = (
        FreshFaces(people, image_size=32, mirror=mirror, device="cpu").__getitems__(items).images
        for mirror in (False, True)
    )
    same = (plain == flipped).flatten(1).all(1)
    turned = (plain == flipped.flip(-1)).flatten(1).all(1)
    assert (same ^ turned).all() and same.any() and turned.any()


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    whole = fit(
        settings(tmp_path, run_dir=str(tmp_path / "whole"), max_epoch=2, scheduler="steplr")
    )
    fit(settings(tmp_path, max_epoch=1, scheduler="steplr"))
    parts = fit(settings(tmp_path, max_epoch=2, scheduler="steplr"))
    assert whole.last_weights.read_bytes() == parts.last_weights.read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synth:mars", "unknown population 'mars'"),
        ("synth:world,identities=many", "'identities=many' is not one of identities=NUMBER"),
        ("synth:world,images=3", "'images=3' is not one of"),
        ("synth:kstar,identities=1", "identities of rendered people must be 2 or more, got 1"),
    ],
)
def test_a_wrong_name_gets_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        TrainingData.open(settings(tmp_path, train_dir=text))


def test_a_batch_larger_than_the_population_is_refused(tmp_path):
    with pytest.raises(UserError, match="synth:world, which has 6"):
        TrainingData.open(settings(tmp_path, batch_size=7)).loader()


@pytest.mark.parametrize("device", ["cpu", None])
def test_a_batch_says_which_photographs_it_shows(device):
    people = RenderedPeople(World(0), 4, 3, first_identity=7)
    items = next(iter(IdentityBatchSampler(people, batch_size=4, images_per_class=2)))
    images = FreshFaces(people, image_size=32, mirror=False, device=device)
    batch = images.__getitems__(items)
    batch = batch if device else images.develop(batch, "cpu")
    assert batch.numbers.tolist() == [list(item.images) for item in items]
    person = people.identities[items[1].label]
    assert people.name(batch.numbers[1, 0]).startswith(f"synth:world/{person}/")

"""Which images meet in a batch, and the loader of their pixels."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.config import TrainConfig
from labkit.data import FaceFolder, IdentityBatchSampler, close_loader, train_loader
from labkit.utils import UserError, make_folder


def folder_of(counts) -> FaceFolder:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"p{label}/{i}.jpg" for i, label in enumerate(labels)]
    return FaceFolder("/nowhere", [f"p{i}" for i in range(len(counts))], labels, names)


def sampler_of(counts, **settings) -> IdentityBatchSampler:
    return IdentityBatchSampler(folder_of(counts), TrainConfig(**settings))


def epoch(sampler, number=0, first_step=0) -> np.ndarray:
    """The indices of an epoch, int64 (steps, batch, images_per_class)."""
    sampler.set_epoch(number, first_step)
    return np.stack([indices for indices, *_ in sampler])


def loader_of(faces, workers=0, rank=0, processes=1, **settings):
    config = dict(batch_size=4, images_per_class=2, image_size=32, mirror=True) | settings
    share = dict(workers=workers, rank=rank, processes=processes)
    return train_loader(FaceFolder.scan(faces), TrainConfig(**config), **share)


def same(one, other) -> bool:
    return all(torch.equal(one[part], other[part]) for part in (0, 1, 3))


SHAPES = [
    ([20] * 40, dict(batch_size=8, max_images_per_class=20)),
    ([5] * 10, dict(batch_size=10, images_per_class=2)),
    ([1000] + [3] * 30, dict(batch_size=8, max_images_per_class=1000)),
    (list(range(1, 61)), dict(batch_size=48)),
    ([7, 1, 2, 9, 4], dict(batch_size=2, images_per_class=2)),
]


@pytest.mark.parametrize(("counts", "settings"), SHAPES)
def test_no_identity_comes_twice_in_a_batch_and_no_image_twice_in_an_epoch(counts, settings):
    sampler = sampler_of(counts, seed=1, **settings)
    for number in range(3):
        batches = epoch(sampler, number)
        assert len(batches) == len(sampler) > 0
        for indices in batches:
            assert indices.shape == (
                settings["batch_size"],
                settings.get("images_per_class", 1),
            )
            labels = sampler.folder.labels[indices]
            assert (labels == labels[:, :1]).all()
            assert len(set(labels[:, 0])) == settings["batch_size"]
        assert len(np.unique(batches)) == batches.size


def test_an_identity_gives_at_most_so_many_images():
    sampler = sampler_of([50] * 10, batch_size=5, max_images_per_class=6)
    assert np.bincount(epoch(sampler).flatten() // 50).max() == 6
    assert len(sampler) == 10 * 6 // 5


def test_epochs_repeat_by_seed_differ_and_can_be_entered_in_the_middle():
    one, same, other = (sampler_of([9] * 12, batch_size=4, seed=seed) for seed in (1, 1, 2))
    third = epoch(one, 3)
    assert (epoch(same, 3) == third).all()
    assert (epoch(same, 3, first_step=5) == third[5:]).all()
    assert (epoch(same, 4) != third).any() and (epoch(other, 3) != third).any()


def test_people_meet_others_evenly_within_an_epoch():
    """Two identities meet about as often as if batches were drawn at random."""
    sampler = sampler_of([20] * 60, batch_size=12)
    meetings = np.zeros((60, 60))
    for number in range(20):
        for labels in epoch(sampler, number)[..., 0] // 20:
            meetings[np.ix_(labels, labels)] += 1
    each = meetings[~np.eye(60, dtype=bool)]
    assert each.mean() == pytest.approx(20 * 20 * 11 / 59)  # 20 images, 11 others of 59, 20 epochs
    assert each.std() < 3 * np.sqrt(each.mean())


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        ([5] * 3, dict(batch_size=4), "set batch_size to 3"),
        ([5, 5, 1], dict(batch_size=4, images_per_class=2), "has 2 identities with 2 or more"),
        ([1, 3], dict(batch_size=4, images_per_class=9), "set images_per_class to 3 or less"),
    ],
)
def test_batches_that_cannot_be_filled_are_one_clear_line(counts, settings, message):
    with pytest.raises(UserError, match=message):
        sampler_of(counts, **settings)
    with pytest.raises(UserError, match="4 cannot be shared by 3"):
        IdentityBatchSampler(folder_of([5] * 9), TrainConfig(batch_size=4), processes=3)


def test_the_parts_of_all_processes_make_the_batch_of_one(faces):
    parts = [loader_of(faces, rank=rank, processes=2) for rank in range(2)]
    for whole, *shares in zip(loader_of(faces), *parts, strict=True):
        assert torch.equal(whole.images, torch.cat([share.images for share in shares]))
        assert torch.equal(whole.indices, torch.cat([share.indices for share in shares]))


def test_workers_give_the_same_batches_in_any_epoch_also_after_one_left_in_the_middle(faces):
    loader = loader_of(faces, 2)
    for number, first_step in ((0, 0), (1, 2)):
        alone = loader_of(faces)
        alone.sampler.set_epoch(number, first_step)
        next(iter(loader))
        loader.sampler.set_epoch(number, first_step)
        kept = list(loader)
        assert len(kept) == len(loader) - first_step
        assert all(same(one, other) for one, other in zip(kept, alone, strict=True))
    close_loader(loader)
    images = kept[0].images
    assert images.shape == (4, 2, 3, 32, 32) and images.dtype == torch.uint8
    assert images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_are_this_process_share_of_the_cores_and_eight_at_most(faces, monkeypatch):
    monkeypatch.setattr("labkit.data.loader.cpu_count", lambda: 40)
    for neighbours, workers in (("1", 8), ("10", 4), ("100", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", neighbours)
        assert loader_of(faces, None).num_workers == workers


def test_an_epoch_draws_nothing_from_the_global_generator(faces):
    state = torch.get_rng_state()
    list(loader_of(faces))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_shows_the_file_that_its_index_names(tmp_path):
    """Each identity has a red of its own, and each of its images a green."""
    for identity in range(4):
        folder = make_folder(tmp_path / f"p{identity}")
        for j in range(3):
            Image.new("RGB", (40, 40), (identity * 60, j * 100, 7)).save(folder / f"{j}.png")
    for batch in loader_of(tmp_path, batch_size=2):
        colours = batch.images[:, :, :, 16, 16].long()
        assert torch.equal(colours[..., 0], batch.labels[:, None].expand(2, 2) * 60)
        assert torch.equal(colours[..., 1], batch.indices % 3 * 100)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_replaced_by_another_of_its_identity_and_named(faces, workers):
    folder = FaceFolder.scan(faces)
    bad = folder.path(3)
    bad.write_bytes(bad.read_bytes()[:100])
    loader = loader_of(faces, workers, batch_size=12, images_per_class=1, mirror=False)
    seen = {}
    for batch in loader:
        for indices, images in zip(batch.indices.flatten().tolist(), batch.images[:, 0]):
            seen[indices] = images.float().mean()
        assert set(batch.unreadable) == ({folder.name(3)} if 3 in batch.indices else set())
    close_loader(loader)
    assert len(seen) == 72
    assert seen[3] == pytest.approx(seen[4], abs=15)


def test_no_worker_is_left_when_a_loader_is_closed_whatever_signals_came(faces):
    """As from a batch system: all processes of a job get SIGTERM, and the epoch goes on."""
    loader = loader_of(faces, 2)
    batches = iter(loader)
    for _ in range(2):  # both have begun
        next(batches)
    workers = list(batches._workers)
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == len(loader) - 2
    batches = iter(loader)
    next(batches)
    close_loader(loader)
    assert not any(worker.is_alive() for worker in workers)
    close_loader(loader)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from test_batches import close_loader, loader_of
loader = loader_of({faces!r}, 2)
batches = iter(loader)
next(batches)
{end}
"""


@pytest.mark.parametrize("end", ["", "close_loader(loader)", "raise RuntimeError('no close')"])
def test_a_program_with_workers_ends_whether_it_closes_the_loader_or_not(faces, end):
    script = SCRIPT.format(folder=os.path.dirname(__file__), faces=str(faces), end=end)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == ("raise" in end)
    assert "killed" not in done.stderr and "DataLoader worker" not in done.stderr

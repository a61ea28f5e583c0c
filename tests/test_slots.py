"""Batches that loader processes leave in shared memory."""

import gc
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from runs import small_run

from labkit.data import FaceFolder, TrainingImages, loading, slots, train_loader
from labkit.data.slots import Slots
from labkit.train import fit
from labkit.trainset import TrainingData
from labkit.utils import UserError

SIZE = 32


def loader_of(faces, workers, **settings):
    folder = FaceFolder.scan(faces)
    images = TrainingImages(folder, image_size=SIZE, mirror=True)
    settings = dict(batch_size=3, images_per_class=2, image_size=SIZE) | settings
    return train_loader(folder, images, workers=workers, **settings)


def same(one, other) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.numbers, other.numbers)
    )


def free_slots(loader) -> int:
    gc.collect()
    return len(loader.batch_sampler.slots._free)


def test_batches_that_are_kept_stay_as_they_were(faces):
    """Twelve batches are held at once, more than there are slots."""
    kept, alone = list(loader_of(faces, 2)), list(loader_of(faces, 0))
    assert len(kept) == 12
    assert all(same(one, other) for one, other in zip(kept, alone, strict=True))
    layout = dict(memory_format=torch.channels_last)
    assert all(batch.images.flatten(0, 1).is_contiguous(**layout) for batch in kept)


def test_a_part_of_a_batch_keeps_its_slot(faces):
    expected = [batch.images[0, 0].clone() for batch in loader_of(faces, 0)]
    parts = [batch.images[0, 0] for batch in loader_of(faces, 2)]
    assert all(torch.equal(one, other) for one, other in zip(parts, expected, strict=True))


def test_slots_are_used_again_and_all_free_in_the_end(faces):
    loader = loader_of(faces, 2)
    slots_there = len(loader.batch_sampler.slots.memory)
    asked = Counter()
    take = loader.batch_sampler.slots.take
    loader.batch_sampler.slots.take = lambda: asked.update([slot := take()]) or slot
    for _ in range(3):
        for batch in loader:
            assert batch.labels.shape == (3,)
    del batch
    assert None not in asked and asked.total() == 36 > slots_there
    assert free_slots(loader) == slots_there


def test_an_epoch_left_in_the_middle_does_not_disturb_the_next(faces):
    loader, alone = loader_of(faces, 2), list(loader_of(faces, 0))
    for _ in range(3):
        next(iter(loader))
    for batch, expected in zip(loader, alone, strict=True):
        assert same(batch, expected)
    del batch
    assert free_slots(loader) == len(loader.batch_sampler.slots.memory)


def test_a_slot_is_free_when_the_last_tensor_over_it_is_gone():
    shared = Slots((1, 1, 4, 4, 3), 1)
    slot = shared.take()
    shared.memory[slot] = 7
    view = shared.open(slot).flatten(0, 1)[0, :, 1]
    assert shared.take() is None
    assert view.eq(7).all()
    del view
    gc.collect()
    assert shared.take() == slot


def test_pinned_copies_free_the_slot(faces, monkeypatch):
    """What a GPU's loader does in its own thread, with a plain copy for the pinned one."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self.clone())
    loader = loader_of(faces, 2)
    batches = [torch.utils.data._utils.pin_memory.pin_memory(batch) for batch in loader]
    assert all(same(one, other) for one, other in zip(batches, loader_of(faces, 0), strict=True))
    assert free_slots(loader) == len(loader.batch_sampler.slots.memory)


def test_too_little_shared_memory_is_one_clear_line(faces, monkeypatch):
    monkeypatch.setattr(loading, "room_for", lambda shape: 5)
    with pytest.raises(UserError, match="2 loader processes need .* MiB of shared memory"):
        loader_of(faces, 2)
    assert loader_of(faces, 1).num_workers == 1


@pytest.mark.parametrize(("room", "processes", "workers"), [(7, 1, 2), (3, 1, 0), (None, 3, 2)])
def test_loader_processes_are_as_many_as_there_is_room_for(
    faces, monkeypatch, room, processes, workers
):
    monkeypatch.setattr(loading, "room_for", lambda shape: room)
    monkeypatch.setattr(loading, "cpu_count", lambda: 6)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_of(faces, None, processes=processes).num_workers == workers


def test_room_is_counted_in_batches(monkeypatch):
    class There:
        f_bavail, f_frsize = 100, 4096

    monkeypatch.setattr(slots.os, "statvfs", lambda path: There)
    assert slots.room_for((10, 1, 64, 64, 3)) == 100 * 4096 // (10 * 64 * 64 * 3)
    monkeypatch.delattr(slots.os, "statvfs")
    assert slots.room_for((10, 1, 64, 64, 3)) is None


def test_unreadable_images_are_told_from_loader_processes_too(faces):
    folder = FaceFolder.scan(faces)
    bad = folder.path(3)
    bad.write_bytes(bad.read_bytes()[:100])
    names = {name for batch in loader_of(faces, 2) for name in batch.unreadable}
    assert names == {folder.name(3)}


def test_training_with_loader_processes_learns_the_same(data_directory, tmp_path):
    rows = {
        workers: fit(small_run(data_directory, tmp_path / str(workers), workers=workers)).rows
        for workers in (0, 2)
    }
    times = ("seconds", "images_per_second")
    plain = {n: [{k: v for k, v in row.items() if k not in times} for row in rows[n]] for n in rows}
    assert plain[0] == plain[2] and np.isfinite([row["train_loss"] for row in rows[0]]).all()


def test_the_crops_of_a_place_in_the_batch_do_not_depend_on_the_process(data_directory, tmp_path):
    data = TrainingData.open(small_run(data_directory, tmp_path))
    whole = next(iter(data.loader()))
    parts = [next(iter(data.loader(rank=rank, processes=2))) for rank in range(2)]
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_loader_processes_outlive_the_signal_of_a_batch_system_until_they_are_closed(faces):
    """Also in the middle of an epoch, whose iterator somebody still holds."""
    loader = loader_of(faces, 2)
    batches = iter(loader)
    for _ in range(2):  # both have begun
        next(batches)
    workers = batches._workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    with pytest.raises(StopIteration):
        while True:
            next(batches)
    assert all(worker.is_alive() for worker in workers)
    batches = iter(loader)
    next(batches)
    loader.close()
    assert not any(worker.is_alive() for worker in workers)


LEFT_OPEN = """
import sys
sys.path[:0] = {paths!r}
from test_slots import loader_of
loader = loader_of({faces!r}, 2)
batches = iter(loader)
next(batches)
{end}
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "loader.close()\nbatches = iter(loader)\nnext(batches)",
        "raise RuntimeError('with the batches in its traceback')",
    ],
    ids=["left open", "opened again", "with an error"],
)
def test_a_loader_that_nobody_closes_ends_with_the_program(faces, end):
    script = LEFT_OPEN.format(paths=[os.path.dirname(__file__)], faces=str(faces), end=end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == ("raise" in end)
    assert "killed" not in done.stderr and "DataLoader worker" not in done.stderr

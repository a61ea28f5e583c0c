import numpy as np
import pytest
import torch
from PIL import Image

from labkit.data import (
    FaceFolder,
    IdentityBatchSampler,
    TrainingImages,
    centre_crop,
    decode_image,
    decode_pixels,
    images,
    random_resized_crop,
    train_loader,
)
from labkit.data.images import CROP_DRAWS
from labkit.utils import UserError


def folder_of(counts) -> FaceFolder:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"p{label}/{i}.jpg" for i, label in enumerate(labels)]
    return FaceFolder("/nowhere", [f"p{i}" for i in range(len(counts))], labels, names)


def epoch(sampler, number=0, first_step=0):
    sampler.set_epoch(number, first_step)
    return list(sampler)


SHAPES = [
    ([20] * 40, dict(batch_size=8, images_per_class=1, max_images_per_class=20)),
    ([5] * 10, dict(batch_size=10, images_per_class=2)),
    ([1000] + [3] * 30, dict(batch_size=8, max_images_per_class=1000)),
    (list(range(1, 61)), dict(batch_size=48)),
    ([7, 1, 2, 9, 4], dict(batch_size=2, images_per_class=2)),
]


@pytest.mark.parametrize(("counts", "settings"), SHAPES)
def test_no_identity_comes_twice_in_a_batch_and_no_image_twice_in_an_epoch(counts, settings):
    folder = folder_of(counts)
    sampler = IdentityBatchSampler(folder, seed=1, **settings)
    for number in range(3):
        batches = epoch(sampler, number)
        assert len(batches) == len(sampler) > 0
        images = []
        for batch in batches:
            assert len(batch) == settings["batch_size"]
            assert len({item.label for item in batch}) == len(batch)
            for item in batch:
                assert len(item.images) == settings.get("images_per_class", 1)
                assert all(folder.labels[i] == item.label for i in item.images)
                images += item.images
        assert len(set(images)) == len(images)


def test_an_identity_gives_at_most_so_many_images():
    sampler = IdentityBatchSampler(folder_of([50] * 10), batch_size=5, max_images_per_class=6)
    labels = [item.label for batch in epoch(sampler) for item in batch]
    assert np.bincount(labels).max() == 6
    assert len(sampler) == 10 * 6 // 5


def test_epochs_repeat_by_seed_and_differ_from_each_other():
    make = lambda seed: IdentityBatchSampler(folder_of([9] * 12), batch_size=4, seed=seed)  # noqa: E731
    assert epoch(make(1), 3) == epoch(make(1), 3)
    assert epoch(make(1), 3) != epoch(make(1), 4)
    assert epoch(make(1), 3) != epoch(make(2), 3)


def test_an_epoch_can_be_entered_in_the_middle():
    sampler = IdentityBatchSampler(folder_of([9] * 12), batch_size=4)
    assert epoch(sampler, 2)[5:] == epoch(sampler, 2, first_step=5)


def test_the_parts_of_all_processes_make_the_batch_of_one():
    folder = folder_of([9] * 12)
    whole = epoch(IdentityBatchSampler(folder, batch_size=6), 1)
    parts = [
        epoch(IdentityBatchSampler(folder, batch_size=6, rank=r, processes=3), 1) for r in range(3)
    ]
    assert [sum(step, []) for step in zip(*parts)] == whole


def test_people_meet_others_evenly_within_an_epoch():
    """Two identities meet about as often as if batches were drawn at random."""
    sampler = IdentityBatchSampler(folder_of([20] * 60), batch_size=12)
    meetings = np.zeros((60, 60))
    for number in range(20):
        for batch in epoch(sampler, number):
            labels = [item.label for item in batch]
            meetings[np.ix_(labels, labels)] += 1
    each = meetings[~np.eye(60, dtype=bool)]
    assert each.mean() == pytest.approx(20 * 20 * 11 / 59)  # 20 images, 11 others of 59, 20 epochs
    assert each.std() < 3 * np.sqrt(each.mean())


@pytest.mark.parametrize(
    ("counts", "settings", "complaint"),
    [
        ([5] * 3, dict(batch_size=4), "which has 3: set batch_size to 3"),
        ([5, 5, 1], dict(batch_size=4, images_per_class=2), "2 with 2 images or more: set batch"),
        ([1, 3], dict(batch_size=4, images_per_class=9), r"nobody .* \(nPerClass\) to 3 or less"),
        ([5] * 9, dict(batch_size=4, processes=3), "cannot be shared equally by 3"),
    ],
)
def test_batches_that_cannot_be_filled_are_one_clear_line(counts, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        IdentityBatchSampler(folder_of(counts), **settings)


def test_batches_are_the_same_with_any_number_of_workers(faces):
    folder = FaceFolder.scan(faces)
    batches = {}
    for workers in (0, 2):
        loader = train_loader(
            folder,
            TrainingImages(folder, image_size=32, mirror=True),
            batch_size=4,
            images_per_class=2,
            workers=workers,
        )
        loader.batch_sampler.set_epoch(1)
        batches[workers] = list(loader)
    for one, other in zip(batches[0], batches[2], strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert one.images.shape == (4, 2, 3, 32, 32) and one.images.dtype == torch.uint8
    assert one.images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_corrupt_image_is_replaced_by_another_of_its_identity_and_named(faces):
    folder = FaceFolder.scan(faces)
    bad = folder.path(3)
    bad.write_bytes(bad.read_bytes()[:100])
    loader = train_loader(folder, TrainingImages(folder, image_size=32), batch_size=12)
    batches = list(loader)
    assert {name for batch in batches for name in batch.unreadable} == {folder.name(3)}
    assert len(batches) == 6


def test_a_jpeg_decoded_small_looks_like_the_whole_one(tmp_path):
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, 128:] = 200
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=95)
    small, whole = decode_image(tmp_path / "x.jpg", min_size=60), decode_image(tmp_path / "x.jpg")
    assert small.size == (64, 64) and whole.size == (256, 256)
    difference = np.abs(
        np.asarray(centre_crop(small, 32), int) - np.asarray(centre_crop(whole, 32), int)
    )
    assert difference.mean() < 2


@pytest.mark.parametrize("content", [b"", b"text, not an image", None])
def test_an_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.jpg"):
        decode_image(path)


def test_a_file_of_another_format_is_not_an_image_whatever_its_name(tmp_path):
    """Pillow would start another program for it."""
    path = tmp_path / "page.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"page\.jpg is not an image that can be read"):
        decode_image(path)


def test_grey_of_16_bits_keeps_its_brightness(tmp_path):
    Image.fromarray(np.full((20, 30), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert np.unique(decode_pixels(tmp_path / "grey.png")).tolist() in ([127], [128])


def test_the_centre_crop_is_the_reference_trainers():
    """Resize the shorter side to 256 and cut the middle 224, in one step instead of two."""
    gradient = np.linspace(0, 255, 200).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(gradient, (150, 1))] * 3, axis=2))
    ours = np.asarray(centre_crop(image, 224), int)
    resized = image.resize((round(200 * 256 / 150), 256), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    theirs = np.asarray(resized.crop((left, top, left + 224, top + 224)), int)
    assert np.abs(ours - theirs).max() <= 2


def test_random_crops_keep_the_asked_share_of_the_area():
    ramp = np.mgrid[0:200, 0:200].astype(np.uint8)
    image = np.stack([ramp[0], ramp[1], ramp[0]], axis=2)
    shares = []
    for seed in range(200):
        draws = np.random.default_rng(seed).random(CROP_DRAWS)
        crop = random_resized_crop(image, 50, draws).astype(float)
        height, width = np.ptp(crop[:, :, 0]) * 50 / 49, np.ptp(crop[:, :, 1]) * 50 / 49
        shares.append(height * width / 200**2)
    assert min(shares) > 0.76 and max(shares) < 1.04
    assert np.mean(shares) == pytest.approx(0.88, abs=0.03)


@pytest.mark.parametrize("shape", [(256, 256), (300, 257), (97, 111)])
@pytest.mark.parametrize("min_size", [None, 30, 64, 200])
def test_both_decoders_give_the_same_pixels(tmp_path, monkeypatch, shape, min_size):
    pytest.importorskip("simplejpeg")
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg", quality=80)
    fast = decode_pixels(tmp_path / "x.jpg", min_size=min_size)
    monkeypatch.setattr(images, "simplejpeg", None)
    assert np.array_equal(fast, decode_pixels(tmp_path / "x.jpg", min_size=min_size))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_kind_of_jpeg_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode).save(tmp_path / "x.jpg")
    pixels = decode_pixels(tmp_path / "x.jpg", min_size=20)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_a_random_crop_has_the_pixels_of_pillows_resize():
    noise = np.random.default_rng(1).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(noise).resize((200, 240), Image.Resampling.BICUBIC))
    ours = random_resized_crop(
        smooth, 64, np.zeros(CROP_DRAWS), scale=(1, 1), ratio=(200 / 240, 200 / 240)
    )
    theirs = np.asarray(Image.fromarray(smooth).resize((64, 64), Image.Resampling.BILINEAR), int)
    assert np.abs(ours - theirs).max() <= 1

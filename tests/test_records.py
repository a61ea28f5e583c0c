"""Packed sets: read as other trainers write them, trained from, packed and unpacked."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_faces
from runs import small_run

from labkit.data import FaceFolder, PairList, make_pairs
from labkit.data.images import decode_pixels, read_source
from labkit.data.loader import train_loader
from labkit.data.records import write_records
from labkit.embed import Embedder
from labkit.evaluate import score_pairs
from labkit.train import fit
from labkit.utils import UserError

MAGIC = 0xCED7230A


def write_set(folder: Path, images: list[tuple[object, bytes]], *, ranges=True, cut=None) -> Path:
    """Write a set as the format's description says: labels are numbers or lists of them.

    cut: where in a body to cut it, the magic number being there.
    """
    folder.mkdir(parents=True)
    out, lines = bytearray(), []

    def write(number, label, data=b"", several=False):
        lines.append(f"{number}\t{len(out)}\n")
        several = several or isinstance(label, list)
        body = struct.pack("IfQQ", len(label) if several else 0, 0 if several else label, number, 0)
        body += b"".join(struct.pack("f", x) for x in label) if several else b""
        body += data
        if cut and data:
            assert body[cut : cut + 4] == struct.pack("I", MAGIC)
            parts = [(1, body[:cut]), (3, body[cut + 4 :])]
        else:
            parts = [(0, body)]
        for kind, part in parts:
            out.extend(struct.pack("II", MAGIC, kind << 29 | len(part)))
            out.extend(part + b"\0" * (-len(part) % 4))

    labels = [label[0] if isinstance(label, list) else label for label, _ in images]
    people, end = sorted(set(labels)), len(images) + 1
    if ranges:
        write(0, [end, end + len(people)])
    for number, (label, data) in enumerate(images, 1):
        write(number, label, data)
    for k, person in enumerate(people if ranges else ()):
        first = labels.index(person) + 1
        write(end + k, [first, first + labels.count(person)])
    (folder / "train.rec").write_bytes(out)
    (folder / "train.idx").write_text("".join(lines))
    return folder


def jpegs(faces: Path) -> list[tuple[int, bytes]]:
    folder = FaceFolder.scan(faces)
    return [(int(folder.labels[i]), folder.path(i).read_bytes()) for i in range(len(folder))]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_a_set_is_read_as_other_trainers_write_it(faces, tmp_path, ranges, several):
    images = [([label, 7.0] if several else label, data) for label, data in jpegs(faces)]
    packed = write_set(tmp_path / "packed", images, ranges=ranges)
    for place in (packed, packed / "train.rec"):
        folder = FaceFolder.scan(place, cache=tmp_path / "scan.npz")
        assert folder.identities == [f"{k:02d}" for k in range(12)] and len(folder) == 72
        np.testing.assert_array_equal(folder.labels, np.repeat(np.arange(12), 6))
        assert [read_source(folder.source(i)) for i in range(72)] == [data for _, data in images]
    assert folder.name(7) == "01/8.jpg" and "record 8 of" in str(folder.source(7))
    assert (tmp_path / "scan.npz").exists() is not ranges


def test_records_in_several_parts_and_in_any_order_are_put_together(tmp_path):
    data = b"1234" + struct.pack("I", MAGIC) + b"56789"
    packed = write_set(tmp_path / "packed", [(3, data), (1, data), (3, data)], ranges=False, cut=28)
    folder = FaceFolder.scan(packed)
    assert folder.identities == ["1", "3"] and [*folder.labels] == [0, 1, 1]
    assert [folder.name(i) for i in range(3)] == ["1/2.jpg", "3/1.jpg", "3/3.jpg"]
    assert {read_source(folder.source(i)) for i in range(3)} == {data}
    write_records(tmp_path / "own.rec", [(1, data), (3, data), (3, data)])
    own = FaceFolder.scan(tmp_path / "own.rec")
    assert [read_source(own.source(i)) for i in range(3)] == [data] * 3


def test_training_from_a_packed_set_is_that_from_its_folder_bit_for_bit(faces, tmp_path):
    packed = write_set(tmp_path / "packed", jpegs(faces))
    make_pairs(FaceFolder.scan(faces)).write(tmp_path / "pairs.csv")
    weights = []
    for train_dir in (faces, packed, packed / "train.rec"):
        config = replace(
            small_run(tmp_path, tmp_path / f"run{len(weights)}"),
            **dict(train_dir=str(train_dir), val_dir=str(faces), max_epoch=1, workers=2),
            val_list=str(tmp_path / "pairs.csv"),
        )
        fit(config)
        result = fit(replace(config, max_epoch=2))  # goes on from the first epoch
        weights.append(result.last_weights.read_bytes())
    assert weights[0] == weights[1] == weights[2]


def test_embeddings_and_pair_scores_are_those_of_the_folder(faces, tmp_path):
    run_pack(faces, "--out", tmp_path / "packed")
    folder, packed = FaceFolder.scan(faces), FaceFolder.scan(tmp_path / "packed")
    assert [packed.name(i) for i in range(72)] == [folder.name(i) for i in range(72)]
    assert packed.identities == folder.identities
    make_pairs(folder).write(tmp_path / "pairs.csv")
    pairs = PairList.read(tmp_path / "pairs.csv", tmp_path / "packed")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
    from labkit.models import InputSpec

    embedder = Embedder.of_model(network, InputSpec(image_size=32), 8, quiet=True)
    scores = [score_pairs(embedder, pairs, root) for root in (faces, tmp_path / "packed")]
    np.testing.assert_array_equal(*scores)
    with pytest.raises(UserError, match="no/1.jpg is not in .*packed"):
        (tmp_path / "bad.csv").write_text(f"1,{folder.name(0)},no/1.jpg\n")
        PairList.read(tmp_path / "bad.csv", tmp_path / "packed")


def run_pack(*flags) -> dict:
    import script_runs  # noqa: F401  (finds the scripts)

    import pack  # isort: skip

    return pack.run(pack.arguments().parse_args([str(flag) for flag in flags]))


def test_packing_and_unpacking_gives_every_file_back_byte_for_byte(tmp_path):
    faces = make_faces(tmp_path / "faces", 3, 4)
    deep = faces / "id0001" / "2020" / "한글 사진.png"
    deep.parent.mkdir()
    (faces / "id0001" / "000.jpg").rename(deep)
    (tmp_path / "identities.csv").write_text("identity,name\nid0001,Kim\n")
    run_pack(faces, "--out", tmp_path / "packed")
    assert (tmp_path / "packed" / "property").read_text() == "3,64,64"
    packed = FaceFolder.scan(tmp_path / "packed")
    assert packed.details()["id0001"]["name"] == "Kim"
    run_pack(tmp_path / "packed", "--unpack", "--out", tmp_path / "again")
    files = [p.relative_to(faces) for p in faces.rglob("*") if p.is_file()]
    assert sorted(files) == sorted(
        p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*.*g")
    )
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (faces / name).read_bytes()


def test_packing_leaves_out_a_few_unreadable_images_and_stops_at_many(faces, tmp_path):
    bad = sorted(faces.rglob("*.jpg"))
    bad[0].write_bytes(b"no picture")
    told = run_pack(faces, "--out", tmp_path / "packed")
    assert told["counts"]["images"] == 71 and sum(told["left_out"].values()) == 1
    for path in bad[:5]:
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="5 of 72 images .* cannot be read"):
        run_pack(faces, "--out", tmp_path / "other")
    assert not [*(tmp_path / "other").glob("train*")]


@pytest.mark.parametrize(
    "case", ["cut", "index", "garbage", "no index", "no rec", "names", "label"]
)
def test_a_damaged_set_is_one_line_that_names_the_file(faces, tmp_path, case):
    images, told = jpegs(faces), "train.idx"
    packed = write_set(tmp_path / "packed", images)
    rec, index = packed / "train.rec", packed / "train.idx"
    if case == "cut":
        os.truncate(rec, rec.stat().st_size // 2)
    elif case == "index":
        other = write_set(tmp_path / "other", [(0, b"x" * 999)] * 50)
        index.write_bytes((other / "train.idx").read_bytes())
        told = "record 0 of|record 51 of|record .* is not where the index says"
    elif case == "garbage":
        index.write_text("0\tzero\n")
    elif case == "no index":
        index.unlink()
    elif case == "no rec":
        rec.unlink()
        packed, told = rec, "train.rec"
    elif case == "names":
        (packed / "names.txt").write_text("a/1.jpg\n")
        told = "names.txt has 1 names for 72 images"
    elif case == "label":
        write_set(tmp_path / "empty", [])
        packed, told = tmp_path / "empty", "holds no images"
    with pytest.raises(UserError, match=told) as caught:
        FaceFolder.scan(packed)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_no_image_is_skipped_and_named_in_training(faces, tmp_path):
    images = jpegs(faces)
    images[3] = (images[3][0], b"no picture")
    folder = FaceFolder.scan(write_set(tmp_path / "packed", images))
    config = small_run(tmp_path, tmp_path / "run")
    seen = {name for batch in train_loader(folder, config) for name in batch.unreadable}
    assert seen <= {"00/4.jpg"}
    with pytest.raises(UserError, match="record 4 of .*train.rec cannot be read: not an image"):
        decode_pixels(folder.source(3))

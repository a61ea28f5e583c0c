"""Cleaning: what is found, what is not, and what a person's corrections come to."""

import json
import re
import shutil
import unicodedata

import numpy as np
import pytest
from browser import browser, chromium_path
from PIL import Image, ImageEnhance, ImageFilter
from script_runs import complaint, make_photos, photo, run_killed, summary, table, tree, untrained

import clean  # isort: skip
from parts import clean_list, label_errors, measure, near_duplicates  # isort: skip

from labkit.utils import UserError, folder_lock

HANGUL = unicodedata.normalize("NFD", "김하늘")
EVIL = "</script><img src=x onerror=alert(1)>'&\".jpg".replace("/", "\N{FRACTION SLASH}")


def read(path) -> dict[str, dict]:
    return {row["file"]: row for row in table(path)}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Eight people with six photos each, and the faults that `PLANTED` names."""
    root = make_photos(tmp_path_factory.mktemp("mess") / "faces", 8, 6)
    (root / "person007").rename(root / HANGUL)
    photo(0, 0).resize((70, 70)).save(root / "person000" / "smaller.jpg", quality=60)
    photo(1, 0).convert("L").save(root / "person001" / "grey.png")
    ImageEnhance.Contrast(photo(7, 2)).enhance(0.7).save(root / HANGUL / "flat.jpg")
    photo(2, 1).save(root / "person002" / EVIL)
    photo(3, 3).save(root / "person004" / "stolen.jpg", quality=70)
    blurred = photo(5, 4).filter(ImageFilter.GaussianBlur(5))
    blurred.save(root / "person005" / "004.jpg", quality=95)
    photo(5, 5).resize((40, 40)).save(root / "person005" / "005.jpg")
    Image.new("RGB", (96, 96), (20, 20, 20)).save(root / "person006" / "black.jpg")
    whole = (root / "person006" / "000.jpg").read_bytes()
    (root / "person006" / "cut short.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "person006" / "text.png").write_text("no picture")
    (root / "person006" / "nothing.jpg").write_bytes(b"")
    (root / "person006" / "notes.txt").write_text("not an image by its name either")
    return root


PLANTED = {
    "person000/smaller.jpg": "near-duplicate",
    "person001/grey.png": "near-duplicate",
    f"{HANGUL}/flat.jpg": "near-duplicate",
    f"person002/{EVIL}": "near-duplicate",
    "person003/003.jpg": "in two identities",
    "person004/stolen.jpg": "in two identities",
    "person005/004.jpg": "blurred",
    "person005/005.jpg": "too small",
    "person006/black.jpg": "flat",
    "person006/cut short.jpg": "unreadable",
    "person006/text.png": "unreadable",
    "person006/nothing.jpg": "unreadable",
}


def test_every_planted_fault_is_found_and_nothing_else(faces, tmp_path, capsys):
    before = tree(faces)
    told = summary(clean, capsys, faces, "--out", tmp_path / "out")
    found = read(tmp_path / "out" / "clean.csv")
    left_out = {name: row["reason"] for name, row in found.items() if row["keep"] == "N"}
    kept = {name for name, row in found.items() if row["keep"] == "Y"}
    # Of a group of copies one stays: the original, or a copy that is no worse.
    assert len(left_out) == len(PLANTED) and len(kept) == 4
    for name, reason in PLANTED.items():
        assert found[name]["reason"] == reason
    originals = {"person000/000.jpg", "person001/000.jpg", f"{HANGUL}/002.jpg", "person002/001.jpg"}
    assert set(left_out) | kept == set(PLANTED) | originals
    assert found["person000/000.jpg"]["keep"] == "Y"
    assert told["left_out"]["in two identities"] == 2
    assert told["counts"] == {"images": 57, "identities": 8, "kept": 45}
    assert tree(faces) == before
    assert set(read(tmp_path / "out" / "clean.log.csv")) == set(left_out)


def test_a_list_names_files_that_are_no_utf8_and_none_runs_in_a_spreadsheet(tmp_path):
    path, names = tmp_path / "l.csv", ["=1+1/a.jpg", "id/\udcff.jpg", "한/글,\n.jpg"]
    clean_list.write_list(path, [clean_list.Finding(name, False, "blurred") for name in names])
    assert "\n'=1+1/a.jpg,N" in path.read_text(encoding="utf-8")
    assert set(clean_list.read_list(path)) == {clean_list.listed(name) for name in names}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,keep\na,Y\n", "l.csv, line 1: the first line must name the columns file, keep"),
        ("file,keep\na/1.jpg,perhaps\n", "line 2: keep must be Y or N, found 'perhaps'"),
        ("file,keep\na/1.jpg,Y\na/1.jpg,N\n", "line 3: a/1.jpg came before with the other answer"),
        ("file,keep\n,Y\n", "line 2: no file is named"),
    ],
)
def test_a_broken_list_is_told_by_its_line(text, words, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        clean_list.read_list(tmp_path / "l.csv")


def test_corrections_survive_a_run_with_other_thresholds(faces, tmp_path, capsys):
    out = tmp_path / "out"
    summary(clean, capsys, faces, "--out", out)
    text = (out / "clean.csv").read_text(encoding="utf-8")
    assert "person005/004.jpg,N,blurred" in text and "person005/005.jpg,N,too small" in text
    corrected = text.replace("person005/004.jpg,N,", "person005/004.jpg,Y,")
    (out / "clean.csv").write_text(corrected, encoding="utf-8")
    for _ in range(3):
        told = summary(clean, capsys, faces, "--out", out, "--min-size", 30)
        assert read(out / "clean.csv")["person005/004.jpg"]["keep"] == "Y"
        assert told["corrections_kept"] == 1 and "too small" not in told["left_out"]


def test_the_page_holds_names_as_data_only(faces, tmp_path, capsys):
    summary(clean, capsys, faces, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "review.html").read_text(encoding="utf-8")
    assert "onerror=alert" not in re.sub(r"(?s)<script.*?</script>", "", page)
    (data,) = re.findall(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)
    assert not set("<>&") & set(data)
    cards = [card for section in json.loads(data)["sections"] for card in section["cards"]]
    assert {card["file"] for card in cards} == set(read(tmp_path / "out" / "clean.csv"))
    assert sum(card.get("picture", "").startswith("data:image/jpeg") for card in cards) == 13
    assert "http://" not in page and "https://" not in page


@pytest.mark.skipif(chromium_path() is None, reason="needs Chromium")
def test_a_person_ticks_and_saves_the_list(faces, tmp_path, capsys):
    out = tmp_path / "out"
    summary(clean, capsys, faces, "--out", out)
    before = read(out / "clean.csv")
    with browser() as started:
        page = started.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append("a name has run as a script"))
        page.goto((out / "review.html").as_uri())
        page.locator(".card", has_text="stolen.jpg").locator("img").click()
        page.locator("section#blurred").get_by_role("checkbox").check()
        page.reload()  # the ticks are remembered
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the list").click()
        download.value.save_as(out / "clean.csv")
    after = read(out / "clean.csv")
    changed = {name for name in after if after[name]["keep"] != before[name]["keep"]}
    assert changed == {"person004/stolen.jpg", "person005/004.jpg"}
    assert set(after) == set(before) and not errors
    told = summary(clean, capsys, faces, "--out", out)
    assert told["corrections_kept"] == 2 and read(out / "clean.csv") == after


def test_killed_in_the_middle_and_run_again_it_gives_the_same(faces, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "PIECE", 10)
    summary(clean, capsys, faces, "--out", tmp_path / "whole")
    setup = "from parts import measure; measure.PIECE = 10"
    flags = (faces, "--out", tmp_path / "killed")
    run_killed("clean", "parts.measure.perceptual_hash", 4, *flags, setup=setup)
    assert not (tmp_path / "killed" / "clean.csv").exists()
    pieces = list((tmp_path / "killed" / ".clean" / "pieces").glob("*.npz"))
    assert len([piece for piece in pieces if piece.name[0] != "."]) == 3
    before = {piece: piece.stat().st_mtime_ns for piece in pieces}
    summary(clean, capsys, faces, "--out", tmp_path / "killed")
    assert {piece: piece.stat().st_mtime_ns for piece in pieces} == before  # not read again
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_changed_image_is_looked_at_again(tmp_path, capsys):
    """And a copy is kept although the larger one is blurred."""
    faces, out = make_photos(tmp_path / "faces", 2, 2), tmp_path / "out"
    summary(clean, capsys, faces, "--out", out)
    blurred = photo(0, 0).resize((200, 200)).filter(ImageFilter.GaussianBlur(6))
    blurred.save(faces / "person000" / "001.jpg", quality=95)
    for sharpness, reasons in ((0.02, ["blurred"]), (0, ["near-duplicate", "near-duplicate"])):
        told = summary(clean, capsys, faces, "--out", out, "--min-sharpness", sharpness)
        assert [row["reason"] for row in table(out / "clean.csv")] == reasons
        assert told["left_out"] == {reasons[0]: 1}


def test_mistakes_are_one_line_each(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    one = make_photos(tmp_path / "one", 1, 2)
    out = ("--out", tmp_path / "o")
    for arguments, words in [
        ((tmp_path / "empty", *out), "holds no images"),
        ((tmp_path / "none", *out), "does not exist"),
        ((one, "--out", one / "o"), "lie in each other"),
        ((one, *out, "--weights", tmp_path / "w.safetensors"), "w.safetensors"),
        ((one, *out, "--radius", 40), "--radius"),
    ]:
        assert words in complaint(clean, capsys, *arguments)
    with folder_lock(tmp_path / "o"):
        assert "another run" in complaint(clean, capsys, one, *out)
    shutil.copy(one / "person000" / "000.jpg", one / "person000" / "again.jpg")
    told = summary(clean, capsys, one, "--out", tmp_path / "out", "--dry-run")
    assert told["left_out"] == {"near-duplicate": 1} and not (tmp_path / "out").exists()


@pytest.fixture
def hashes():
    """Random hashes with near ones beside some of them: 0 to 10 flipped bits."""
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    near = hashes[:150].copy()
    for k in range(150):
        near[k] ^= sum(np.uint64(1) << np.uint64(bit) for bit in rng.choice(64, k % 11, False))
    crowd = hashes[200] ^ rng.integers(0, 2**9, 60, dtype=np.uint64)
    return np.unique(np.concatenate([hashes, near, crowd]))


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 6, 8, 12])
def test_the_search_finds_what_comparing_every_two_finds(hashes, radius):
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1).astype(np.int16)
    every = (bits[:, None] != bits[None]).sum(axis=2)
    expected = np.argwhere(np.triu((every <= radius), 1))
    found = np.stack(near_duplicates.pairs_within(hashes, radius), axis=1)
    assert np.array_equal(found, expected)
    assert radius == 0 or len(expected) > 20


def test_images_of_one_hash_stay_in_one_group_however_many(hashes):
    many = np.concatenate([np.full(500, hashes[7]), hashes])
    i, j = near_duplicates.candidates(many, 0)
    group = near_duplicates.groups(len(many), i, j)
    assert len(np.unique(group[:500])) == 1 and np.bincount(group).max() == 501
    assert len(i) <= 501 * near_duplicates.MAX_OF_ONE_HASH


def people(spread: float, misfiled: int):
    """Embeddings of 40 people with 20 images each, some of them filed under another."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 64))
    labels = np.repeat(np.arange(40), 20)
    of = labels.copy()
    bad = rng.choice(800, misfiled, replace=False)
    of[bad] = (labels[bad] + rng.integers(1, 40, misfiled)) % 40
    rows = centres[of] / 8 + spread * rng.normal(size=(800, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels, np.arange(41) * 20, set(bad.tolist()), of


def test_misfiled_faces_are_found_and_their_person_is_named():
    rows, labels, starts, bad, of = people(0.1, 30)
    verdicts = label_errors.judge(rows, labels, starts, np.ones(800, bool))
    found = set(np.flatnonzero(verdicts.wrong).tolist())
    assert len(found & bad) >= 29 and not found - bad
    assert all(verdicts.nearest[i] == of[i] for i in found)
    assert verdicts.nearest_own > 0.95


def test_centres_hold_against_many_wrong_faces_and_leave_each_image_out_of_its_own():
    rows, labels, starts, _, _ = people(0.05, 0)
    rows[:8] = rows[20:28]  # 40 % of the first person's images show the second
    centres, own = label_errors.centres(rows, starts, np.ones(800, bool))
    assert centres[0] @ centres[1] < 0.5 and own[:8].max() < 0.5 < own[8:20].min()
    _, own = label_errors.centres(rows[40:42], np.array([0, 2]), np.ones(2, bool))
    assert own == pytest.approx([float(rows[40] @ rows[41])] * 2, abs=1e-5)
    rows[:20] = rows[20:40][::-1]  # two names for one person
    verdicts = label_errors.judge(rows, labels, starts, np.ones(800, bool))
    assert [pair[:2] for pair in verdicts.same] == [(0, 1)]


def test_with_weights_the_page_compares_and_the_embeddings_are_kept(tmp_path, capsys):
    flags = ["--weights", untrained(tmp_path / "net.safetensors"), "--device", "cpu"]
    faces = make_photos(tmp_path / "faces", 4, 5)
    (faces / "person000" / "bad.jpg").write_text("unreadable")
    for _ in range(2):
        told = summary(clean, capsys, faces, "--out", tmp_path / "out", *flags)
        assert "by these weights" in told["nearest_to_their_own_identity"]
    pieces = list((tmp_path / "out" / ".clean" / "pieces").iterdir())
    assert sorted(piece.suffix for piece in pieces) == [".npy", ".npz"]
    page = (tmp_path / "out" / "review.html").read_text(encoding="utf-8")
    assert '"judged":' in page and '"judged":null' not in page

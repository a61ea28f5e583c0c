"""Public sets, from what scikit-learn keeps of them; no test needs a network."""

from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image
from script_runs import ENVIRONMENT, kill_when, run_script, tree

from labkit.data import FaceFolder, PairList
from labkit.utils import UserError

import fetch_public  # isort: skip

PEOPLE = {"Ann_Lee": 3, "Bo_Kim": 2, "Cy": 1}


def fetch(*flags: str | Path) -> dict:
    return fetch_public.run(fetch_public.arguments().parse_args([str(flag) for flag in flags]))


@pytest.fixture
def data_home(tmp_path) -> Path:
    """scikit-learn's folder as it is after LFW was fetched, with six photos."""
    home = tmp_path / "scikit_learn_data"
    for person, (name, photos) in enumerate(PEOPLE.items()):
        folder = home / "lfw_home" / "lfw_funneled" / name
        folder.mkdir(parents=True)
        for number in range(1, photos + 1):
            pixels = np.full((250, 250, 3), 60, np.uint8)
            pixels[68:182, 68:182] = 100 + 40 * person  # the middle 250 / 2.2 = 114 pixels
            Image.fromarray(pixels).save(folder / f"{name}_{number:04d}.jpg", quality=95)
    lists = {
        "pairs.txt": "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t3\tBo_Kim\t1\nBo_Kim\t2\t1\nBo_Kim\t2\tCy\t1\n",
        "pairsDevTrain.txt": "1\nAnn_Lee\t1\t3\nAnn_Lee\t1\tCy\t1\n",
        "pairsDevTest.txt": "1\nAnn_Lee\t2\t3\nAnn_Lee\t2\tCy\t1\n",
    }
    for name, text in lists.items():
        (home / "lfw_home" / name).write_text(text)
    return home


def test_lfw_becomes_a_face_folder_with_its_own_pair_list(data_home, tmp_path):
    """With scikit-learn's real fetcher, which finds its files and needs no network."""
    summary = fetch("lfw", "--out", tmp_path / "out", "--data-home", data_home)
    folder = FaceFolder.scan(tmp_path / "out" / "test")
    assert dict(zip(folder.identities, folder.counts())) == PEOPLE
    pairs = PairList.read(tmp_path / "out" / "test_pairs.csv", folder.root)
    assert [*pairs.rows()] == [
        (1, "Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0002.jpg"),
        (0, "Ann_Lee/Ann_Lee_0003.jpg", "Bo_Kim/Bo_Kim_0001.jpg"),
        (1, "Bo_Kim/Bo_Kim_0002.jpg", "Bo_Kim/Bo_Kim_0001.jpg"),
        (0, "Bo_Kim/Bo_Kim_0002.jpg", "Cy/Cy_0001.jpg"),
    ]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    pairs.check_labels(tmp_path)
    assert list(summary["pairs"].values()) == [4, 2, 2]  # test, dev_train, dev_test
    # The face fills three quarters of the crop.
    row = np.asarray(Image.open(tmp_path / "out/test/Bo_Kim/Bo_Kim_0001.jpg"))[128, :, 0]
    assert row.shape == (256,) and abs((row > 100).mean() - 0.75) < 0.01
    fetch("lfw", "--out", tmp_path / "whole", "--data-home", data_home, "--whole")
    originals = tree(data_home / "lfw_home" / "lfw_funneled")
    assert tree(tmp_path / "whole" / "test") == originals


def test_lfw_goes_on_where_it_was_stopped_and_names_a_broken_photo(data_home, tmp_path):
    broken = data_home / "lfw_home/lfw_funneled/Ann_Lee/Ann_Lee_0004.jpg"
    broken.write_bytes(b"\xff\xd8 broken")
    for earlier in (0, 6):
        summary = fetch("lfw", "--out", tmp_path / "out", "--data-home", data_home)
        assert summary["counts"] == {"images written": 6}
        assert summary["finished_earlier"] == earlier
        assert summary["left_out"]["not a readable image"] == 1


def test_a_download_that_was_cut_short_or_is_damaged_is_told(data_home, tmp_path):
    flags = ("lfw", "--out", tmp_path / "out", "--data-home", data_home)
    (data_home / "lfw_home/lfw_funneled/Cy/Cy_0001.jpg").rename(tmp_path / "elsewhere.jpg")
    lists = data_home / "lfw_home"
    (lists / "pairsDevTrain.txt").write_text("1\nAnn_Lee\t1\t3\nAnn_Lee\t1\tBo_Kim\t1\n")
    with pytest.raises(UserError, match="pairs.txt has 1 bad line.* Cy/Cy_0001.jpg is not in"):
        fetch(*flags)
    (lists / "pairs.txt").write_text("1\t1\nAnn_Lee\t1\t2\nAnn_Lee\tx\tCy\t2\n")
    with pytest.raises(UserError, match="pairs.txt has 1 bad line: line 3: expected"):
        fetch(*flags)


def test_olivetti_becomes_a_face_folder_also_after_a_kill(tmp_path):
    """With scikit-learn's real fetcher on a file of the documented shape."""
    faces = np.random.default_rng(0).random((400, 64 * 64), dtype=np.float32)
    (tmp_path / "home").mkdir()
    joblib.dump(faces, tmp_path / "home" / "olivetti_py3.pkz", compress=6)
    flags = ["olivetti", "--out", tmp_path / "out", "--data-home", tmp_path / "home"]
    written = (tmp_path / "out" / "test").glob
    kill_when(lambda: len(list(written("*/*"))) > 50, "fetch_public", *flags)
    assert 50 < len(list(written("*/*"))) < 400
    summary = fetch(*flags)
    assert summary["finished_earlier"] >= 50
    folder = FaceFolder.scan(tmp_path / "out" / "test")
    assert len(folder.identities) == 40 and set(folder.counts()) == {10}
    pixels = np.asarray(Image.open(folder.path(0)).convert("L")).astype(float) / 255
    wanted = faces[0].reshape(64, 64).T  # they are kept turned over
    assert np.corrcoef(pixels.ravel(), wanted.ravel())[0, 1] > 0.99
    pairs = PairList.read(tmp_path / "out" / "test_pairs.csv", folder.root)
    assert len(pairs) == summary["pairs"]["test_pairs.csv"] > 400
    before = (tmp_path / "out" / "test_pairs.csv").read_bytes()
    assert fetch(*flags)["finished_earlier"] == 400
    assert (tmp_path / "out" / "test_pairs.csv").read_bytes() == before


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    """Both sets are asked for through a proxy at a port where nothing listens."""
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    home = ("--data-home", tmp_path / "home")
    for which, name in (("lfw", "LFW"), ("olivetti", "Olivetti")):
        flags = (which, "--out", tmp_path / which, *home)
        run = run_script("fetch_public", *flags, env=ENVIRONMENT | nowhere)
        error = run.stderr
        assert error.startswith(f"fetch_public.py: cannot download {name}: connection refused")
        assert run.returncode == 2 and "--data-home" in error and error.count("\n") == 1


def test_a_dry_run_counts_what_is_at_hand_and_fetches_and_writes_nothing(data_home, tmp_path):
    out = ["--out", tmp_path / "out", "--dry-run", "--data-home"]
    for which in ("lfw", "olivetti"):
        assert "download" in fetch(which, *out, tmp_path / "home")
    assert fetch("lfw", *out, data_home)["counts"] == {"images to write": 6}
    assert not (tmp_path / "out").exists() and not (tmp_path / "home" / "lfw_home").exists()

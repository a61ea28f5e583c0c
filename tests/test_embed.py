from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import make_faces
from PIL import Image

from labkit.checkpoint import save_weights
from labkit.data import centre_crop
from labkit.embed import Embedder
from labkit.models import InputSpec, build_model
from labkit.utils import UserError, map_ahead


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(
        path,
        build_model("ThinResNet34", 16),
        model_name="ThinResNet34",
        embedding_size=16,
        input_spec=InputSpec(image_size=48),
    )
    return Embedder(path, device="cpu", batch_size=4)


def test_embeddings_are_the_networks_output_scaled_to_length_one(embedder):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))
    pixels = np.asarray(centre_crop(image, 48)) / 255
    normalized = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        batch = torch.tensor(normalized, dtype=torch.float32).permute(2, 0, 1)[None]
        expected = embedder.model(batch).numpy()
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(embedder([image]), expected, atol=1e-5)


def test_all_ways_to_give_images_agree(embedder, tmp_path):
    arrays = np.random.default_rng(1).integers(0, 255, (6, 70, 60, 3), np.uint8)
    first = embedder(list(arrays))
    assert first.shape == (6, 16) and first.dtype == np.float32
    for same in (arrays, arrays.transpose(0, 3, 1, 2), torch.from_numpy(arrays)):
        np.testing.assert_allclose(embedder(same), first, atol=1e-6)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, array in zip(paths, arrays):
        Image.fromarray(array).save(path)
    np.testing.assert_allclose(embedder.files(paths), first, atol=1e-6)


def test_files_come_back_in_their_order_whatever_the_batch_size(embedder, tmp_path):
    assert embedder([]).shape == embedder.files([]).shape == (0, 16)
    paths = sorted(make_faces(tmp_path, 5, 5).rglob("*.jpg"))
    together = embedder.files(paths)
    for i in (0, 7, 24):
        np.testing.assert_allclose(embedder.files([paths[i]])[0], together[i], atol=1e-5)
    assert embedder([]).shape == embedder.files([]).shape == (0, 16)


def test_bad_images_and_devices_are_one_clear_line(embedder, tmp_path):
    with pytest.raises(UserError, match="must be uint8"):
        embedder([np.zeros((4, 4, 3))])
    (tmp_path / "bad.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"bad\.jpg"):
        embedder.files([tmp_path / "bad.jpg"])
    for flags in (dict(device="cuda:99"), dict(device="quantum"), dict(precision="int3")):
        [(name, value)] = flags.items()
        with pytest.raises(UserError, match=f"no {name} '?{value}"):
            Embedder(embedder.weights_path, **flags)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_embeddings_that_are_of_no_use_are_refused_with_the_name_of_the_image(tmp_path, value):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.good = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            bright = images.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] > 0
            return torch.where(bright, self.good, value).expand(-1, 4)

    for name, grey in (("good", 250), ("bad", 5)):
        Image.new("RGB", (20, 20), (grey,) * 3).save(tmp_path / f"{name}.png")
    embedder = Embedder.of_model(Broken(), InputSpec(image_size=16), 4, quiet=True)
    assert embedder.files([tmp_path / "good.png"]).shape == (1, 4)
    with pytest.raises(UserError, match=r"embedding of .*bad.png is zero or not finite \(1 are"):
        embedder.files([tmp_path / "good.png", tmp_path / "bad.png"])


def test_results_come_in_order_and_no_more_than_asked_are_computed_ahead():
    started = []
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda x: started.append(x) or x * x, range(50), 5)
        assert next(results) == 0 and len(started) <= 6
        assert list(results) == [x * x for x in range(1, 50)]


def test_sixteen_bits_give_nearly_the_same_and_leave_the_network_alone():
    torch.manual_seed(0)
    network = build_model("ThinResNet34", 16).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = np.random.default_rng(0).integers(0, 255, (6, 48, 48, 3), np.uint8)
    spec = InputSpec(image_size=48)
    full, half = (
        Embedder.of_model(network, spec, 16, precision=name)(images) for name in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    assert 0.99 < (full * half).sum(1).min() and (full != half).any()
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])


def test_a_processor_gets_batches_that_its_caches_hold_for_each_thread(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    network = build_model("ThinResNet34", 16)
    sizes = {
        size: Embedder.of_model(network, InputSpec(image_size=size), 16).batch_size
        for size in (48, 64, 224, 4000)
    }
    assert sizes == {48: 32, 64: 32, 224: 4, 4000: 1}

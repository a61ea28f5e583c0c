"""What in the rendered photographs helps a network that meets real ones?

python tests/benchmarks/faces_ablation.py --real DIR [--identities 400] [--images 12] [--epochs 8]

Takes one kind of variety away at a time (light, pose, blur and noise, inexact crops, skin), renders
the same people so, trains the same small ThinResNet34 on them, and prints its equal error rate on
held-out rendered people (with all varieties) and on the real photos of DIR/identity/image, all
pairs, cut as `labkit.crop` cuts. About four minutes a row on two cores; one row is one draw, and
differences below a point are chance.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from faces_quality import HELD_OUT, RealPhotos, error_rate_of_all_pairs

from labkit.config import TrainConfig
from labkit.data import FaceFolder, make_pairs
from labkit.embed import Embedder
from labkit.evaluate import score_pairs
from labkit.metrics import eer
from labkit.synth import World, make_dataset
from labkit.train import fit


def one_light(shot):
    """The same soft light from the front for everybody."""
    ambient = np.zeros((9, 3))
    ambient[0] = 0.36 * 3.545
    key = np.array([0.2, 0.5, 0.84])
    return dataclasses.replace(
        shot, key=key, key_colour=np.full(3, 1.1), softness=0.6, ambient=ambient
    )


def frontal(shot):
    """Everybody looks into the camera."""
    straight = np.eye(3)
    return dataclasses.replace(
        shot, head=straight, body=straight, angles=(0.0, 0.0, 0.0), gaze=shot.gaze * 0
    )


def clean_camera(shot):
    """No blur, noise, lost resolution or compression; never in grey."""
    camera = shot.camera | {"blur": 0.0, "noise": 0.0, "resolution": 1.0, "jpeg": 96}
    camera["saturation"] = max(camera["saturation"], 0.5)
    return dataclasses.replace(shot, camera=camera)


def exact_crop(shot):
    """The face always at the same place and size in the square, never at the photograph's edge."""
    return dataclasses.replace(shot, shift=shot.shift * 0, zoom=1.0, border=shot.border * 0)


def one_expression(shot):
    """Everybody keeps a straight face."""
    return dataclasses.replace(shot, actions=shot.actions * 0)


def flat_skin(person):
    """Skin of one colour: no grain, blotches, moles, freckles or lines."""
    skin = person.skin | {"moles": [], "freckles": 0.0, "grain": 0.0, "blotch": 0.0}
    skin |= {"cheeks": 0.0, "nose": 0.0, "dark_eyes": 0.0, "wrinkles": 0.0}
    return dataclasses.replace(person, skin=skin)


class Without(World):
    """World without one kind of variety."""

    def __init__(self, seed: int, name: str, photo=None, person=None):
        super().__init__(seed)
        self.name, self._photo, self._person = name, photo, person

    def person(self, identity):
        whole = super().person(identity)
        return self._person(whole) if self._person else whole

    def photo(self, identity, photo, person=None):
        whole = super().photo(identity, photo, person)
        return self._photo(whole) if self._photo else whole


VARIANTS = {
    "everything": {},
    "one light": dict(photo=one_light),
    "frontal": dict(photo=frontal),
    "clean camera": dict(photo=clean_camera),
    "exact crop": dict(photo=exact_crop),
    "one expression": dict(photo=one_expression),
    "flat skin": dict(person=flat_skin),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, metavar="DIR", required=True)
    parser.add_argument("--identities", type=int, default=400)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=VARIANTS, action="append")
    options = parser.parse_args()
    real = RealPhotos(options.real)
    cut = [np.asarray(image) for image in real.ways["found and cut"]]
    real.report("pixels")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        held_out = make_dataset(
            work / "test", "world", 60, 10, 128, seed=options.seed, first_identity=HELD_OUT
        )
        pairs = make_pairs(FaceFolder.scan(held_out), per_image=8, seed=options.seed)
        for name in options.only or VARIANTS:
            people = Without(options.seed, name, **VARIANTS[name])
            train = make_dataset(
                work / name, people, options.identities, options.images, 96, contact_sheet=False
            )
            result = fit(
                TrainConfig(
                    run_dir=str(work / f"{name} run"), train_dir=str(train), embedding_size=256,
                    image_size=64, batch_size=64, loss="amsoftmax", margin=0.1, scale=30.0,
                    optimizer="adamw", lr=0.002, scheduler="cosine", warmup_epochs=0.5,
                    mirror=True, mixed_precision=True, seed=options.seed,
                    max_epoch=options.epochs,
                )
            )  # fmt: skip
            embedder = Embedder(result.last_weights)
            rendered = eer(score_pairs(embedder, pairs, held_out), pairs.labels)
            photographed = error_rate_of_all_pairs(np.asarray(embedder(cut)), real.owners)
            print(
                f"{name}: EER {rendered:.2f} % on rendered, {photographed:.2f} % on real photos",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What each command of `labkit` does.

Each function takes the parsed arguments and returns what `--json` prints and what people read.
What only one command needs is imported in it, so that training loads no figures and no renderer.
"""

import dataclasses
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from labkit.config import TrainConfig
from labkit.data import FaceFolder, PairList, make_pairs
from labkit.devices import DEVICE_VARIABLE, best_device
from labkit.embed import Embedder
from labkit.evaluate import VerificationReport, read_scores, save_report, score_pairs, write_scores
from labkit.registry import load_plugin
from labkit.utils import UserError, atomic_path, progress

Answer = tuple[dict, str]
# What the VoxCeleb trainer validates on when its command names nothing else.
DEFAULT_VALIDATION = dict(val_dir="data/val", val_list="data/val_pairs.csv")


def synth(args: Namespace) -> Answer:
    """Render a face folder."""
    from labkit.synth import make_dataset

    settings = ("population", "identities", "images", "size", "seed", "landmarks")
    asked = {name: getattr(args, name) for name in settings}
    folder = FaceFolder.scan(make_dataset(args.out, device=str(best_device(args.device)), **asked))
    people = len(folder.identities)
    result = dict(out=args.out, identities=people, images=len(folder))
    return result, f"{len(folder):,} photos of {people:,} rendered people: {args.out}"


def pairs(args: Namespace) -> Answer:
    """Make a pair list."""
    folder, labelled = FaceFolder.scan(args.folder), not args.unlabelled
    made = make_pairs(folder, per_image=args.per_image, seed=args.seed, labelled=labelled)
    made.write(args.out)
    kind = "pairs, half of them target pairs" if labelled else "unlabelled pairs"
    return dict(out=args.out, pairs=len(made)), f"{len(made):,} {kind}: {args.out}"


def train(args: Namespace) -> Answer:
    """Train with `args.settings`, or with --eval score a list with given weights."""
    from labkit.train import fit

    settings = args.settings
    if args.eval:
        return _eval_as_voxceleb(TrainConfig(**settings), args.output)
    if not settings.keys() & DEFAULT_VALIDATION.keys() and all(
        Path(path).exists() for path in DEFAULT_VALIDATION.values()
    ):
        settings |= DEFAULT_VALIDATION
    result = fit(TrainConfig(**settings))
    if result.best_val_eer is None:
        return vars(result), f"trained without validation: {result.last_weights}"
    best = f"best validation EER {result.best_val_eer:.2f} % in epoch {result.best_epoch}"
    return vars(result), f"{best}: {result.best_weights}"


def _eval_as_voxceleb(config: TrainConfig, output: str | None) -> Answer:
    """`--eval` as the VoxCeleb trainer has it: the weights are those of --initial_model."""
    from labkit.checkpoint import load_voxceleb_model
    from labkit.models import InputSpec

    weights = config.initial_weights
    if not (weights and config.val_list):
        raise UserError("--eval needs --initial_model, --test_path and --test_list")
    asked = dict(test_path=config.val_dir, test_list=config.val_list, output=output)
    args = Namespace(**asked, report=None, flip=False, compare=())
    if weights.endswith(".safetensors"):
        return _evaluate(_embedder(weights, config), args)
    if config.plugin:
        load_plugin(config.plugin)
    model = load_voxceleb_model(weights, config.model).to(best_device(config.device))
    spec = InputSpec(image_size=config.image_size)
    return _evaluate(Embedder.of_model(model, spec, config.embedding_size), args)


def _embedder(weights: str | Path, args: Namespace | TrainConfig, **settings) -> Embedder:
    """Load weights whose network may come from the plugin in `args`."""
    if args.plugin:
        load_plugin(args.plugin)
    return Embedder(weights, device=args.device, **settings)


def eval(args: Namespace) -> Answer:
    """Score a pair list and, when it has labels, report."""
    embedder = _embedder(args.weights, args, precision=args.precision)
    if args.compare and not args.report:
        raise UserError("--compare is for the report: give --report DIR too")
    return _evaluate(embedder, args)


def _evaluate(embedder: Embedder, args: Namespace) -> Answer:
    file, root, output = args.test_list, args.test_path, args.output
    listed = PairList.read(file, root)
    compared = {Path(other).stem: read_scores(other).with_labels(listed) for other in args.compare}
    scores = score_pairs(embedder, listed, root, flip=args.flip)
    if output:
        write_scores(output, scores, listed)
    if listed.labels is None:
        if not output:
            raise UserError(f"{file} is a blind list: give --output FILE for its scores")
        return dict(output=output, pairs=len(listed)), f"{len(listed):,} pairs scored: {output}"
    report = VerificationReport.from_scores(scores, listed, name=Path(file).stem)
    if args.report:
        others = [
            VerificationReport.from_scores(other.scores, listed, name=name)
            for name, other in compared.items()
        ]
        save_report([report], args.report, root=root, others=others)
    return dict(report.to_dict(), output=output), report.summary()


def score(args: Namespace) -> Answer:
    """Report on a score file."""
    scored = read_scores(args.score_file)
    if args.labels:
        scored = scored.with_labels(PairList.read(args.labels))
    if scored.pairs.labels is None:
        raise UserError(f"{args.score_file} has no labels: give --labels FILE, the labelled list")
    name = Path(args.score_file).stem
    report = VerificationReport.from_scores(scored.scores, scored.pairs, name=name)
    return report.to_dict(), report.summary()


def embed(args: Namespace) -> Answer:
    """Embed a folder of images into an .npz file."""
    embedder = _embedder(args.weights, args)
    folder = FaceFolder.scan(args.folder)
    names = [folder.name(i) for i in range(len(folder))]
    without_face: list[str] = []
    if args.detect:
        embeddings = embedder(_face_crops(folder, without_face))
        names = [name for name in names if name not in without_face]
    else:
        embeddings = embedder.files([folder.path(i) for i in range(len(folder))])
    with atomic_path(args.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, files=np.array(names), embeddings=embeddings)
    result = dict(out=args.out, images=len(names), without_face=without_face)
    left_out = f", {len(without_face)} without a face left out" if without_face else ""
    return result, f"{len(names):,} embeddings{left_out}: {args.out}"


def _face_crops(folder: FaceFolder, without_face: list[str]) -> Iterator[Image.Image]:
    """Yield the crop of the largest face of each photo; `without_face` gets the other names."""
    from labkit.crop import crop_face, find_faces, read_photo

    for i in progress(range(len(folder)), desc="finding faces", unit="photo"):
        photo = read_photo(folder.path(i))
        if found := find_faces(photo):
            yield crop_face(photo, found[0])
        else:
            without_face.append(folder.name(i))


def gallery(args: Namespace) -> Answer:
    """Make a gallery file; with --val_list it can say what a similarity means."""
    from labkit.gallery import Gallery
    from labkit.likeness import calibrate

    if bool(args.val_path) != bool(args.val_list):
        raise UserError("--val_path and --val_list go together: a face folder and its pair list")
    listed = PairList.read(args.val_list, args.val_path) if args.val_list else None
    embedder = _embedder(args.weights, args)
    made = Gallery.build(args.folder, embedder)
    if listed is not None:
        made.calibration = calibrate(embedder, listed, args.val_path)
    made.save(args.out)
    result = dict(out=args.out, identities=len(made), images=len(made.files))
    result |= dict(skipped=made.skipped, calibrated=made.calibration is not None)
    return result, f"{len(made):,} people, {len(made.files):,} photos: {args.out}"


def lookalike(args: Namespace) -> Answer:
    """Find the people of a gallery who look like a face of each photo, the largest by default."""
    from labkit.gallery import Gallery
    from labkit.plots import lookalike_sheet

    known = Gallery.load(args.gallery)
    embedder = _embedder(args.weights or known.weights_path, args)
    known.check(embedder)
    answers, lines = [], []
    for path in args.photos:
        face, box, found = _face_of(path, args)
        matches = known.search(embedder([face])[0], args.k)
        answer = dict(photo=path, faces=found, box=box, matches=[*map(dataclasses.asdict, matches)])
        answers.append(answer)
        choice = f": face {args.face} of {found} (--face N for another)"
        lines.append(path + (choice if found > 1 else ""))
        lines += [f"  {match.similarity:6.3f}  {match.name}" for match in matches]
        if meaning := known.calibration:
            for values in answer["matches"]:
                similarity = values["similarity"]
                values["closer_than_percent"] = float(meaning.percentile(similarity))
                values["chance_of_same_person"] = float(meaning.probability(similarity))
            sentence = meaning.describe(matches[0].similarity, len(known))
            lines.append(f"  {matches[0].name}: {sentence}")
        if args.sheet:
            sheet = Path(args.sheet)
            if len(args.photos) > 1:
                sheet = sheet.with_stem(f"{sheet.stem}-{Path(path).stem}")
            with atomic_path(sheet) as temporary:
                lookalike_sheet(face, matches, known).savefig(temporary, dpi=150)
    if known.note:
        lines.append(known.note)
    return dict(photos=answers, note=known.note), "\n".join(lines)


def _face_of(path: str, args: Namespace):
    """Return the face crop, its box in the photo and how many faces were found (0: by hand)."""
    from labkit.crop import crop_face, find_faces, largest_face, read_photo

    photo = read_photo(path)
    if args.box:
        return crop_face(photo, args.box), args.box, 0
    faces = find_faces(photo) or [largest_face(photo, name=path)]
    if args.face > len(faces):
        raise UserError(f"{path} shows {len(faces)} face(s), so there is no --face {args.face}")
    box = faces[args.face - 1].box
    return crop_face(photo, box), box, len(faces)


def facemap(args: Namespace) -> Answer:
    """Draw a map of a gallery's people, or with --photos of every photo.

    The ending of the file's name chooses between a page (.html) and a poster (.png, .pdf).
    """
    from labkit.facemap import faithfulness, layout, poster, save_poster, snapped, to_html
    from labkit.gallery import Gallery

    out = Path(args.out)
    ending = out.suffix.lower()
    if ending not in (".html", ".png", ".pdf"):
        raise UserError(f"{out} must end in .html, .png or .pdf")
    known = Gallery.load(args.gallery)
    points = known.embeddings if args.photos else known.means
    labels = known.labels if args.photos else None
    people = np.arange(len(known)) if labels is None else labels
    pictures = known.thumbnails("image" if args.photos else "identity")
    names = [known.names[i] for i in people]
    xy = layout(points, args.method, seed=args.seed)
    if ending == ".html":
        to_html(
            out,
            {args.method: xy, "grid": snapped(xy)},
            pictures,
            names,
            points,
            labels=labels,
            details=[known.details[i].get("hangul", "") for i in people],
            attributes={key: [of[i] for i in people] for key, of in known.attributes.items()},
            note=known.note,
        )
    else:
        save_poster(poster(xy, pictures, names, note=known.note), out)
    numbers = faithfulness(points, xy, labels)
    result = dict(out=str(out), people=len(known), photos=len(known.files), **numbers)
    kind = "photos" if args.photos else "people"
    return result, f"{len(points):,} {kind} by {args.method}: {out}"


def run(args: Namespace) -> Answer:
    """Run the five notebooks."""
    from labkit.lab import Lab
    from labkit.notebooks import outcome, run_all, table

    if args.device:
        os.environ[DEVICE_VARIABLE] = str(best_device(args.device))  # the notebooks' kernels too
    run_dir = args.out or f"runs/{args.preset}"
    lab = Lab(preset=args.preset, data_dir=args.data, run_dir=run_dir, seed=args.seed)
    result = outcome(lab, run_all(lab, photo=args.photo))
    return result, table(result)


def doctor(args: Namespace) -> Answer:
    """Describe the machine and, with --data, a data directory."""
    from labkit.doctor import examine

    return examine(args.data)

"""What each command of `labkit` does.

Each function takes the parsed arguments and returns what `--json` prints and what people read.
"""

import dataclasses
import os
from argparse import Namespace
from pathlib import Path

import numpy as np

from labkit.checkpoint import load_reference_model
from labkit.config import TrainConfig, read_settings
from labkit.crop import crop_face, find_faces, largest_face, read_photo
from labkit.data import FaceFolder, PairList, make_pairs
from labkit.devices import DEVICE_VARIABLE, best_device
from labkit.doctor import examine
from labkit.embed import Embedder
from labkit.evaluate import (
    VerificationReport,
    read_scores,
    save_report,
    score_pairs,
    write_scores,
)
from labkit.lab import Lab
from labkit.models import InputSpec
from labkit.registry import load_plugin
from labkit.train_flags import train_settings
from labkit.utils import UserError, atomic_path, progress

Answer = tuple[dict, str]
# What the reference trainer validates on when its command names nothing else.
USUAL_VALIDATION = dict(val_dir="data/val", val_list="data/val_pairs.csv")


def synth(args: Namespace) -> Answer:
    """Render a face folder."""
    from labkit.synth import make_dataset

    make_dataset(
        args.out,
        population=args.population,
        identities=args.identities,
        images=args.images,
        size=args.size,
        seed=args.seed,
        device=str(best_device(args.device)),
        landmarks=args.landmarks,
    )
    folder = FaceFolder.scan(args.out)
    result = dict(out=args.out, identities=len(folder.identities), images=len(folder))
    return (
        result,
        f"{len(folder):,} photos of {len(folder.identities):,} rendered people: {args.out}",
    )


def pairs(args: Namespace) -> Answer:
    """Make a pair list."""
    made = make_pairs(
        FaceFolder.scan(args.folder),
        per_image=args.per_image,
        seed=args.seed,
        labelled=not args.unlabelled,
    )
    made.write(args.out)
    kind = "unlabelled pairs" if args.unlabelled else "pairs, half of them target pairs"
    return dict(out=args.out, pairs=len(made)), f"{len(made):,} {kind}: {args.out}"


def train(args: Namespace) -> Answer:
    """Train, or with --eval score a list with given weights."""
    from labkit.train import fit

    settings = {**(read_settings(args.config) if args.config else {}), **train_settings(args)}
    if args.eval:
        return _eval_as_reference(TrainConfig(**settings), args.output)
    named = settings.keys() & USUAL_VALIDATION.keys()
    if not named and all(Path(path).exists() for path in USUAL_VALIDATION.values()):
        settings |= USUAL_VALIDATION
    result = fit(TrainConfig(**settings))
    values = {name: str(v) if isinstance(v, Path) else v for name, v in vars(result).items()}
    if result.best_val_eer is None:
        return values, f"trained without validation: {result.last_weights}"
    return values, (
        f"best validation EER {result.best_val_eer:.2f} % in epoch {result.best_epoch}: "
        f"{result.best_weights}"
    )


def _embedder(weights: str | Path, args: Namespace, **settings) -> Embedder:
    """The network of a weights file, which a plugin may have to bring."""
    if args.plugin:
        load_plugin(args.plugin)
    return Embedder(weights, device=args.device, **settings)


def _eval_as_reference(config: TrainConfig, output: str | None) -> Answer:
    """`--eval` as the reference trainer has it: the weights are those of --initial_model."""
    if not (config.initial_weights and config.val_list and config.val_dir):
        raise UserError("--eval needs --initial_model, --test_path and --test_list")
    if config.plugin:
        load_plugin(config.plugin)
    if config.initial_weights.endswith(".safetensors"):
        embedder = Embedder(config.initial_weights, device=config.device)
    else:
        model = load_reference_model(config.initial_weights, config.model).eval()
        model.to(best_device(config.device))
        spec = InputSpec(image_size=config.image_size)
        embedder = Embedder.of_model(model, spec, config.embedding_size)
    return _evaluate(embedder, config.val_dir, config.val_list, output, None, False)


def eval(args: Namespace) -> Answer:
    """Score a pair list and, when it has labels, report."""
    embedder = _embedder(args.weights, args, precision=args.precision)
    if args.compare and not args.report:
        raise UserError("--compare is for the report: give --report DIR too")
    return _evaluate(
        embedder, args.test_path, args.test_list, args.output, args.report, args.flip, args.compare
    )


def _evaluate(embedder, folder, pair_file, output, report_folder, flip, compare=()) -> Answer:
    listed = PairList.read(pair_file, folder)
    others = [(Path(file).stem, read_scores(file).with_labels(listed)) for file in compare]
    scores = score_pairs(embedder, listed, folder, flip=flip)
    if output:
        write_scores(output, scores, listed)
    if listed.labels is None:
        if not output:
            raise UserError(f"{pair_file} is a blind list: give --output FILE for its scores")
        return dict(output=output, pairs=len(listed)), f"{len(listed):,} pairs scored: {output}"
    report = VerificationReport.from_scores(scores, listed, name=Path(pair_file).stem)
    if report_folder:
        others = [
            VerificationReport.from_scores(other.scores, listed, name=name)
            for name, other in others
        ]
        save_report([report], report_folder, root=folder, others=others)
    return dict(report.to_dict(), output=output), report.summary()


def score(args: Namespace) -> Answer:
    """Report on a score file."""
    scored = read_scores(args.score_file)
    if args.labels:
        scored = scored.with_labels(PairList.read(args.labels))
    if scored.labels is None:
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
        embeddings, names, without_face = _detect_and_embed(embedder, folder)
    else:
        embeddings = embedder.files([folder.path(i) for i in range(len(folder))])
    with atomic_path(args.out) as beside, open(beside, "wb") as file:
        np.savez(file, files=np.array(names), embeddings=embeddings)
    result = dict(out=args.out, images=len(names), without_face=without_face)
    left_out = f", {len(without_face)} without a face left out" if without_face else ""
    return result, f"{len(names):,} embeddings{left_out}: {args.out}"


def _detect_and_embed(embedder: Embedder, folder: FaceFolder):
    """Embeddings and names of the photos in which a face is found, and names of the others."""
    names, without, faces, parts = [], [], [], []
    for i in progress(range(len(folder)), desc="finding faces", unit="photo"):
        photo = read_photo(folder.path(i))
        found = find_faces(photo)
        if not found:
            without.append(folder.name(i))
            continue
        faces.append(crop_face(photo, found[0]))
        names.append(folder.name(i))
        if len(faces) == embedder.batch_size:
            parts.append(embedder(faces))
            faces = []
    parts.append(embedder(faces))
    return np.concatenate(parts), names, without


def gallery(args: Namespace) -> Answer:
    """Make a gallery file, with --val_list calibrated so that answers mean something."""
    from labkit.gallery import Gallery, calibrate

    if bool(args.val_path) != bool(args.val_list):
        raise UserError("--val_path and --val_list go together: a face folder and its pair list")
    listed = PairList.read(args.val_list, args.val_path) if args.val_list else None
    embedder = _embedder(args.weights, args)
    made = Gallery.build(args.folder, embedder)
    if listed is not None:
        made.calibration = calibrate(embedder, listed, args.val_path)
    made.save(args.out)
    result = dict(
        out=args.out,
        identities=len(made),
        images=len(made.files),
        skipped=made.skipped,
        calibrated=made.calibration is not None,
    )
    return result, f"{len(made):,} people, {len(made.files):,} photos: {args.out}"


def lookalike(args: Namespace) -> Answer:
    """Find the people of a gallery who look like a face of each photo, the largest by default."""
    from labkit.gallery import Gallery

    known = Gallery.load(args.gallery)
    embedder = _embedder(args.weights or known.weights_path, args)
    known.check(embedder)
    answers, lines = [], []
    for path in args.photos:
        face, box, found = _face_of(path, args)
        matches = known.search(embedder([face])[0], args.k)
        told = [_told(known, match) for match in matches]
        answers.append(dict(photo=path, faces=found, box=box, matches=told))
        lines.append(f"{path}")
        if found > 1 and not args.box:
            lines[-1] += f": face {args.face} of {found} (--face N for another)"
        lines += [f"  {match.similarity:6.3f}  {match.name}" for match in matches]
        if known.calibration is not None:
            said = known.calibration.describe(matches[0].similarity, len(known))
            lines.append(f"  {matches[0].name}: {said}")
        if args.sheet:
            _write_sheet(args.sheet, path, len(args.photos), face, matches, known)
    if known.note:
        lines.append(known.note)
    return dict(photos=answers, note=known.note), "\n".join(lines)


def _face_of(path: str, args: Namespace):
    """The cut face, its box in pixels of the photo and how many faces were found (0: by hand)."""
    photo = read_photo(path)
    if args.box:
        return crop_face(photo, args.box), args.box, 0
    faces = find_faces(photo) or [largest_face(photo, name=str(path))]
    if args.face > len(faces):
        raise UserError(f"{path} shows {len(faces)} face(s), so there is no --face {args.face}")
    box = faces[args.face - 1].box
    return crop_face(photo, box), box, len(faces)


def _told(known, match) -> dict:
    """A match as JSON, with what its similarity means where the gallery is calibrated."""
    values = dataclasses.asdict(match)
    if known.calibration is not None:
        values["closer_than_percent"] = float(known.calibration.percentile(match.similarity))
        values["chance_of_same_person"] = float(known.calibration.probability(match.similarity))
    return values


def _write_sheet(sheet: str, photo: str, photos: int, face, matches, known) -> None:
    """One picture per photo; with several, the photo's name goes into the file's name."""
    from labkit.gallery import lookalike_sheet

    path = Path(sheet)
    if photos > 1:
        path = path.with_name(f"{path.stem}-{Path(photo).stem}{path.suffix}")
    with atomic_path(path) as beside:
        lookalike_sheet(face, matches, known).savefig(beside, dpi=150)


def facemap(args: Namespace) -> Answer:
    """Draw a map of a gallery's stars, or with --photos of every photo: a page, a poster or a PDF.

    What it is goes by the ending of the name.
    """
    from labkit.facemap import faithfulness, layout, poster, save_poster, snapped, to_html
    from labkit.gallery import Gallery

    out = Path(args.out)
    if out.suffix.lower() not in (".html", ".png", ".pdf"):
        raise UserError(f"{out} must end in .html, .png or .pdf")
    known = Gallery.load(args.gallery)
    points = known.embeddings if args.photos else known.means
    star = known.labels if args.photos else np.arange(len(known))
    pictures = known.thumbnails("image" if args.photos else "identity")
    names = [known.names[i] for i in star]
    xy = layout(points, args.method, seed=args.seed)
    labels = star if args.photos else None
    if out.suffix.lower() == ".html":
        to_html(
            out,
            {args.method: xy, "grid": snapped(xy)},
            pictures,
            names,
            points,
            labels=labels,
            details=[known.details[i].get("hangul", "") for i in star],
            attributes={
                name: [values[i] for i in star] for name, values in known.attributes.items()
            },
            note=known.note,
        )
    else:
        save_poster(poster(xy, pictures, names, note=known.note), out)
    numbers = faithfulness(points, xy, labels)
    kind = "photos" if args.photos else "people"
    result = dict(out=str(out), people=len(known), photos=len(known.files), **numbers)
    return result, f"{len(points):,} {kind} by {args.method}: {out}"


def run(args: Namespace) -> Answer:
    """Run the five notebooks."""
    from labkit.notebooks import outcome, run_all, table

    if args.device:
        os.environ[DEVICE_VARIABLE] = str(best_device(args.device))  # the notebooks' kernels too
    lab = Lab(
        preset=args.preset,
        data_dir=args.data,
        run_dir=args.out or f"runs/{args.preset}",
        seed=args.seed,
    )
    runs = run_all(lab, photo=args.photo)
    result = outcome(lab, runs)
    return result, table(result)


def doctor(args: Namespace) -> Answer:
    """Describe the machine and, with --data, a data directory."""
    return examine(args.data)

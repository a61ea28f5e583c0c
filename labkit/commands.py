"""What each command of `labkit` does.

Each function takes the parsed arguments and returns what `--json` prints and what people read.
What only one command needs is imported in it, so that training loads no figures and no renderer.
"""

import importlib.metadata
import os
import platform
import shutil
from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import torch
from joblib import cpu_count

from labkit import __version__
from labkit.config import TrainConfig
from labkit.data import DataDirectory, FaceFolder, PairList, make_pairs
from labkit.devices import DEVICE_VARIABLE, best_device
from labkit.embed import Embedder
from labkit.evaluate import VerificationReport, read_scores, save_report, score_pairs, write_scores
from labkit.registry import load_plugin
from labkit.utils import UserError, atomic_path, cache_dir, printable, progress, write_csv

Answer = tuple[dict, str]
PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "anny", "dlib-bin", "papermill")
GIB = 2**30
PICTURES_LOOKED_AT = 4000  # of each face folder, by `labkit doctor`


def _left_out(names: list[str], why: str) -> str:
    """A line that lists what was left out; nothing for nothing."""
    listed = printable(", ".join(names), 200)
    return f"\n  left out, {len(names):,} {why}: {listed}" if names else ""


def scanned(path: str) -> FaceFolder:
    """Return a face folder, and say what in it was passed over."""
    folder = FaceFolder.scan(path)
    if folder.note:
        print(folder.note)
    return folder


def synth(args: Namespace) -> Answer:
    """Render a face folder."""
    from labkit.synth import make_dataset

    names = ("population", "identities", "images", "size", "seed", "landmarks")
    settings = {name: getattr(args, name) for name in names}
    made = make_dataset(args.out, device=str(best_device(args.device)), **settings)
    result = dict(out=args.out, identities=args.identities, images=len(FaceFolder.scan(made)))
    return result, "{images:,} photos of {identities:,} rendered people: {out}".format(**result)


def pairs(args: Namespace) -> Answer:
    """Make a pair list."""
    folder, labelled = scanned(args.folder), not args.unlabelled
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
    default = dict(val_dir="data/val", val_list="data/val_pairs.csv")  # as the VoxCeleb trainer's
    if not settings.keys() & default.keys() and all(Path(p).exists() for p in default.values()):
        settings |= default
    result = fit(TrainConfig(**settings))
    if result.best_val_eer is None:
        return vars(result), f"trained without validation: {result.last_weights}"
    best = f"best validation EER {result.best_val_eer:.2f} % in epoch {result.best_epoch}"
    return vars(result), f"{best}: {result.best_weights}"


def _eval_as_voxceleb(config: TrainConfig, output: str | None) -> Answer:
    """`--eval` as the VoxCeleb trainer has it: the weights are those of --initial_model."""
    if not (config.initial_weights and config.val_list):
        raise UserError("--eval needs --initial_model, --test_path and --test_list")
    if config.plugin:
        load_plugin(config.plugin)
    how = dict(device=config.device, image_size=config.image_size)
    embedder = Embedder(config.initial_weights, **how)
    return _evaluate(embedder, config.val_list, config.val_dir, output)


def eval(args: Namespace) -> Answer:
    """Score a pair list and, when it has labels, report."""
    embedder = Embedder(args.weights, device=args.device, precision=args.precision)
    if args.compare and not args.report:
        raise UserError("--compare is for the report: give --report DIR too")
    report = dict(flip=args.flip, report=args.report, compare=args.compare)
    return _evaluate(embedder, args.test_list, args.test_path, args.output, **report)


def _evaluate(embedder, file, root, output, flip=False, report=None, compare=()) -> Answer:
    listed = PairList.read(file, root)
    if not root and not listed.sources:
        raise UserError(f"where are the images of {file}? Give --test_path DIR")
    compared = {Path(f).stem: read_scores(f).with_labels(listed).scores for f in compare}
    scores = score_pairs(embedder, listed, root, flip=flip)
    if output:
        write_scores(output, scores, listed)
    if listed.labels is None:
        if not output:
            raise UserError(f"{file} is a blind list: give --output FILE for its scores")
        return dict(output=output, pairs=len(listed)), f"{len(listed):,} pairs scored: {output}"
    measured = VerificationReport(scores, listed, name=Path(file).stem)
    if report:
        others = [VerificationReport(theirs, listed, name) for name, theirs in compared.items()]
        save_report([measured], report, root=root, others=others)
    return dict(measured.to_dict(), output=output), measured.summary()


def benchmark(args: Namespace) -> Answer:
    """Measure networks on the field's sets."""
    from labkit.crop import crop_face, find_faces, read_photo
    from labkit.evaluate.benchmark import COLUMNS, as_table, benchmark

    def crop(file):
        found = find_faces(photo := read_photo(file))
        return crop_face(photo, found[0]) if found else None

    how = dict(device=args.device, image_size=args.image_size)
    embedders = {}
    for file in args.weights:
        name = "/".join(Path(file).with_suffix("").parts[-2:])  # finetune/best
        embedders[file if name in embedders else name] = Embedder(file, **how)
    rows = list(benchmark(embedders, args.sets, crop if args.crop else None))
    if args.out:
        write_csv(args.out, [COLUMNS, *([row[c] for c in COLUMNS] for row in rows)])
    return dict(rows=rows, out=args.out), as_table(rows)


def score(args: Namespace) -> Answer:
    """Report on a score file."""
    scored = read_scores(args.score_file)
    if args.labels:
        scored = scored.with_labels(PairList.read(args.labels))
    if scored.pairs.labels is None:
        raise UserError(f"{args.score_file} has no labels: give --labels FILE, the labelled list")
    report = VerificationReport(scored.scores, scored.pairs, Path(args.score_file).stem)
    return report.to_dict(), report.summary()


def embed(args: Namespace) -> Answer:
    """Embed a folder of images into an .npz file."""
    from labkit.crop import crop_face, find_faces, read_photo

    embedder, folder = Embedder(args.weights, device=args.device), scanned(args.folder)
    paths = [folder.source(i) for i in range(len(folder))]
    unreadable, faceless = [], []

    def faces():
        for i, path in enumerate(progress(paths, desc="finding faces", unit="photo")):
            try:
                if found := find_faces(photo := read_photo(path)):
                    yield crop_face(photo, found[0])
                else:
                    faceless.append(i)
            except UserError:
                unreadable.append(i)

    embeddings = embedder(faces()) if args.detect else embedder.files(paths, unreadable)
    skipped, without_face = ([folder.name(i) for i in sorted(n)] for n in (unreadable, faceless))
    folder.check_skipped(skipped)
    kept = np.delete(np.arange(len(folder)), unreadable + faceless)
    with atomic_path(args.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, files=np.array([folder.name(i) for i in kept]), embeddings=embeddings)
    result = dict(out=args.out, images=len(kept), skipped=skipped, without_face=without_face)
    left_out = _left_out(skipped, "unreadable") + _left_out(without_face, "without a face")
    return result, f"{len(kept):,} embeddings: {args.out}{left_out}"


def gallery(args: Namespace) -> Answer:
    """Make a gallery file; with --val_list it can say what a similarity means."""
    from labkit.gallery import Gallery
    from labkit.likeness import calibrate

    if bool(args.val_path) != bool(args.val_list):
        raise UserError("--val_path and --val_list go together: a face folder and its pair list")
    listed = args.val_list and PairList.read(args.val_list, args.val_path)
    embedder = Embedder(args.weights, device=args.device)
    made = Gallery.build(scanned(args.folder), embedder)
    if listed:
        made.calibration = calibrate(embedder, listed, args.val_path)
    made.save(args.out)
    result = dict(out=args.out, identities=len(made), images=len(made.files))
    result |= dict(skipped=made.skipped, calibrated=made.calibration is not None)
    left_out = _left_out(made.skipped, "unreadable")
    return result, f"{len(made):,} people, {len(made.files):,} photos: {args.out}{left_out}"


def lookalike(args: Namespace) -> Answer:
    """Find the people of a gallery who look like a face of each photo, the largest by default."""
    from labkit.crop import crop_face, find_faces, largest_face, read_photo, shows_face
    from labkit.gallery import Gallery
    from labkit.plots import lookalike_sheet

    known = Gallery.load(args.gallery)
    embedder = Embedder(args.weights or known.weights_path, device=args.device)
    known.check(embedder)
    answers, lines, problems = [], [], {}
    for path in args.photos:
        try:
            photo = read_photo(path)
            if args.box:
                box, count, is_face = args.box, 0, shows_face(photo, args.box)
            else:
                faces = find_faces(photo) or [largest_face(photo, name=path)]
                count, is_face = len(faces), True
                if args.face > count:
                    raise UserError(f"{path} shows {count} face(s): there is no --face {args.face}")
                box = faces[args.face - 1].box
            face = crop_face(photo, box)
        except UserError as error:
            problems[path] = str(error)
            continue
        matches = known.search(embedder([face])[0], args.k)
        found = [asdict(match) for match in matches]
        sentence = "" if is_face else "No face was found in this box."
        if is_face and (meaning := known.calibration):
            for match in found:
                likeness = match["similarity"]
                match["closer_than_percent"] = float(meaning.percentile(likeness))
                match["strangers_this_close_percent"] = meaning.strangers(likeness, len(known))
                match["strangers_measured"] = meaning.measured(len(known))
            described = meaning.describe(matches[0].similarity, len(known))
            sentence = f"{matches[0].name}: {described}"
        others = f": face {args.face} of {count} (--face N for another, --box for one not found)"
        lines.append(path + others * (count > 1))
        lines += [f"  {match.similarity:6.3f}  {match.name}" for match in matches]
        lines += [sentence and f"  {sentence}"]
        answer = dict(photo=path, faces=count, box=box, is_face=is_face, matches=found)
        if args.sheet:
            sheet = Path(args.sheet)
            if len(args.photos) > 1:
                sheet = sheet.with_stem(f"{sheet.stem}-{len(answers) + 1}-{Path(path).stem}")
            answer["sheet"] = str(sheet)
            with atomic_path(sheet) as temporary:
                lookalike_sheet(face, matches, known, sentence).savefig(temporary, dpi=150)
        answers.append(answer)
    if not answers:
        raise UserError("; ".join(problems.values()))
    lines += [f"left out: {problem}" for problem in problems.values()]
    result = dict(photos=answers, skipped=[*problems], problems=[*problems.values()])
    return dict(result, note=known.note), "\n".join(filter(None, [*lines, known.note]))


def facemap(args: Namespace) -> Answer:
    """Draw a map of a gallery's people or photos, as a page (.html) or a poster (.png, .pdf)."""
    from labkit.facemap import faithfulness, layout, poster, save_poster, snapped, to_html
    from labkit.gallery import Gallery

    out = Path(args.out)
    if out.suffix.lower() not in (".html", ".png", ".pdf"):
        raise UserError(f"{out} must end in .html, .png or .pdf")
    known = Gallery.load(args.gallery)
    points, labels = (known.embeddings, known.labels) if args.photos else (known.means, None)
    people = range(len(known)) if labels is None else labels
    pictures = known.thumbnails("image" if args.photos else "identity")
    names = [known.names[i] for i in people]
    xy = layout(points, args.method, seed=args.seed)
    if out.suffix.lower() == ".html":
        details = [known.details[i].get("hangul", "") for i in people]
        looks = {key: [of[i] for i in people] for key, of in known.attributes.items()}
        about = dict(labels=labels, details=details, attributes=looks, note=known.note)
        to_html(out, {args.method: xy, "grid": snapped(xy)}, pictures, names, points, **about)
    else:
        save_poster(poster(xy, pictures, names, note=known.note), out)
    result = dict(out=str(out), people=len(known), photos=len(known.files))
    text = f"{len(points):,} {'photos' if args.photos else 'people'} by {args.method}: {out}"
    return result | faithfulness(points, xy, labels), text


def run(args: Namespace) -> Answer:
    """Run the five notebooks."""
    from labkit.lab import Lab
    from labkit.notebooks import outcome, run_all

    if args.device:
        os.environ[DEVICE_VARIABLE] = str(best_device(args.device))  # the notebooks' kernels too
    lab = Lab(args.preset, args.data, args.out or f"runs/{args.preset}", args.seed)
    return outcome(lab, run_all(lab, args.photo))


def doctor(args: Namespace) -> Answer:
    """Describe the machine and, with --data, a data directory; exit code 2 when that is bad."""
    from labkit.synth import head_file

    cache, head, all_cores = cache_dir(), head_file(), psutil.cpu_count()
    versions = {package.name: package.version for package in importlib.metadata.distributions()}
    here, there = (round(shutil.disk_usage(path).free / GIB, 1) for path in (".", cache))
    devices = ["cpu", *["mps"] * torch.backends.mps.is_available()]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} ({gpu.name}, {gpu.total_memory / GIB:.0f} GiB)")
    found = {
        "labkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: versions.get(name, "not installed") for name in PACKAGES},
        "cores": cpu_count(),  # that this process may use, by its affinity and its cgroup's quota
        "cores_of_machine": all_cores,
        "cores_busy": round(psutil.cpu_percent(0.5) / 100 * all_cores, 1),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "devices": devices,
        "device_used": str(best_device(args.device)),
        "disk_free_gib": here,
        "cache": str(cache),
        "cache_free_gib": there,
        "head_model": str(head) if head.exists() else None,
    }
    lines = [
        f"labkit {__version__}, Python {found['python']}, {found['system']}",
        ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
        f"processor cores: {found['cores']} for this process (fewer with OMP_NUM_THREADS=N); "
        f"{found['cores_busy']} of the machine's {all_cores} are busy",
        f"memory: {found['memory_gib']} GiB",
        f"devices: {', '.join(devices)}; {found['device_used']} will be used",
        f"disk: {here} GiB free here, {there} GiB in {cache}",
        f"built-in head model: {found['head_model'] or 'made on first use, in about a minute'}",
    ]
    if args.data is not None:
        data, about = DataDirectory(args.data), dict(problem=None, notes=[])
        for name in ("pretrain", "train", "val", "test"):
            with suppress(UserError):  # which `check` reports
                faces = data.scan(name)
                about[name] = dict(identities=len(faces.identities), images=len(faces))
                about["notes"] += [faces.note] * bool(faces.note)
                lines.append(f"{name}: {len(faces):,} images of {len(faces.identities):,} people")
        try:
            data.check(pictures=PICTURES_LOOKED_AT)
        except UserError as error:
            about["problem"] = str(error)
        lines += [*about["notes"], about["problem"] or "the data directory is in order"]
        found["data"] = about
        args.exit_code = 2 if about["problem"] else 0
    return found, "\n".join(lines)

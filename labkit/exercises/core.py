"""What an exercise is, and the check that stands under it in a notebook."""

import builtins
import json
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from labkit.utils import UserError, did_you_mean

NOT_STUDENTS = (str(Path(__file__).parents[1]), *{*sysconfig.get_paths().values()}, "<frozen")
GREEN, RED, GREY = "\x1b[32m", "\x1b[31m", "\x1b[90m"


class Mistake(Exception):
    """What is wrong with an answer: one sentence for the student."""


@dataclass(frozen=True)
class Exercise:
    """An exercise: inputs drawn from a seed, the student's code run on them, and the verdict.

    `run` is all that happens where the student's code is; `judge` sees only the inputs and what
    `run` returned, as JSON would carry it (numbers, text, and nested lists of them), so that a
    grader can judge in another process.
    """

    number: str  # "1.2"
    title: str
    minutes: int
    points: int
    draw: Callable[[np.random.Generator], Iterator[dict]]  # inputs, one dict per case
    run: Callable[..., dict]  # (*answers, **case): the outputs; raises Mistake
    judge: Callable[[dict, dict], None]  # (case, outputs): raises Mistake

    def cases(self, seed: int) -> list[dict]:
        """Return the inputs of a seed: arrays, numbers, text."""
        return list(self.draw(np.random.default_rng(seed)))


EXERCISES: dict[str, Exercise] = {}


def exercise(number: str, title: str, *, minutes: int, points: int):
    """Return a decorator that enters a class with `draw`, `run` and `judge` as an exercise."""

    def enter(cls: type) -> type:
        about = dict(number=number, title=title, minutes=minutes, points=points)
        EXERCISES[number] = Exercise(**about, draw=cls.draw, run=cls.run, judge=cls.judge)
        return cls

    return enter


def check(number: str, *answers: Callable, seed: int = 0) -> bool:
    """Check the answers to an exercise, print what came out, and return whether it is solved.

    Never raises for what the student's code does. Only under nbgrader, which counts points by
    exceptions, does an unsolved exercise raise AssertionError. UserError for an unknown number.
    """
    if number not in EXERCISES:
        raise UserError(f"no exercise {number!r}{did_you_mean(number, EXERCISES)}")
    about = EXERCISES[number]
    message = try_answers(about, answers, seed)
    name = f"Exercise {number}, {about.title}" + (", other inputs" if seed else "")
    points = f"{about.points} point{'s' if about.points > 1 else ''}"
    if message is None:
        say(GREEN, f"✓ {name}: solved ({points}).")
    elif not message:
        say(GREY, f"○ {name}: not solved yet ({points}).")
    else:
        say(RED, f"✗ {name}: not right yet. {message}")
    if message is not None and os.environ.get("NBGRADER_EXECUTION") == "autograde":
        raise AssertionError(message or "not solved yet")
    return message is None


def try_answers(about: Exercise, answers: tuple, seed: int) -> str | None:
    """Return None for right answers, "" where the gap is still there, or what is wrong."""
    for case in about.cases(seed):
        message = judged(about, case, outcome(about, answers, case))
        if message is not None:
            return message
    return None


def outcome(about: Exercise, answers: tuple, case: dict) -> dict:
    """Run the answers on one case; return {"output": …}, {"gap": True} or {"mistake": words}."""
    for answer in answers:
        if not callable(answer):
            what = "the name of your function, without calling it" if answer is not None else "it"
            return {"mistake": f'Give check("{about.number}", …) {what}; it got {answer!r:.60}.'}
    generator = torch.random.get_rng_state()
    try:
        output = about.run(*answers, **case)
        return {"output": json.loads(json.dumps(output, default=plain))}
    except NotImplementedError:
        return {"gap": True}
    except Mistake as mistake:
        return {"mistake": str(mistake)}
    except Exception as error:  # whatever the student's code raises is the student's to read
        return {"mistake": own_line(error)}
    finally:
        torch.random.set_rng_state(generator)


def judged(about: Exercise, case: dict, result: dict) -> str | None:
    """Return None when the outcome of a case is right, "" for a gap, or what is wrong."""
    if "output" not in result:
        return "" if result.get("gap") else str(result.get("mistake"))
    try:
        about.judge(case, result["output"])
    except Mistake as mistake:
        return str(mistake)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return "What it returned has another form than the exercise asks for."
    return None


def own_line(error: BaseException) -> str:
    """Return a student's error in one line, with the line of their own code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(NOT_STUDENTS)]
    where = ""
    if own:
        code = linecache.getline(own[-1].filename, own[-1].lineno).strip()
        where = (
            f"Line {own[-1].lineno} of your cell" + (f", `{code}`" if code else "") + ", stops: "
        )
    words = " ".join(str(error).split())
    return f"{where}{type(error).__name__}" + (f": {words:.300}" if words else "")


def numbers(value, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return what a student's function returned as float64 of the shape; raises Mistake."""
    if value is None:
        raise Mistake(f"{what} is None: does your function end with a `return`?")
    try:
        array = np.asarray(plain(value), dtype=np.float64)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise Mistake(f"{what} should be numbers of shape {shape}, but is a {kind}.") from None
    if array.shape != shape:
        raise Mistake(f"{what} should have the shape {shape}, but has {array.shape}.")
    if not np.isfinite(array).all():
        raise Mistake(f"{what} holds NaN or infinity: where is divided, or a log or exp taken?")
    return array


def plain(value):
    """Return a tensor, an array or a scalar of one as numbers and lists."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def close(got, right, tolerance: float = 1e-4) -> bool:
    """Whether numbers agree within a tolerance, relative above 1 and absolute below."""
    got, right = np.asarray(got, dtype=np.float64), np.asarray(right, dtype=np.float64)
    return got.shape == right.shape and np.allclose(got, right, rtol=tolerance, atol=tolerance)


def say(colour: str, text: str) -> None:
    colours = hasattr(builtins, "get_ipython") or sys.stdout.isatty()  # a notebook, a terminal
    print(f"{colour}{text}\x1b[0m" if colours else text)

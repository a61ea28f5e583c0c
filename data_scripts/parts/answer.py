"""What happens in the process of a student's code: their cells, then the exercise on its inputs."""

import ast
import dataclasses
import json
import linecache
import math
import os
import re
from dataclasses import dataclass

from labkit.exercises import EXERCISES
from labkit.exercises.core import outcome, own_line

DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Code:
    """The code of an answer, with what is around it in its notebook."""

    own: str
    names: list[str]  # of the functions that the check is given
    staff: str  # the staff's answer
    others: list[tuple[str, bool]]  # the notebook's other cells, and whether each is an answer
    alone: bool = False  # run none of those, except what they import


def answer(mouth, apart: bool, number: str, code: Code, cases: list[dict]) -> None:
    """Run the cells, then the answers on each case; say what came out, a line of JSON each."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn

    import labkit
    from labkit import metrics
    from labkit.registry import LOSSES, MODELS

    def say(value: dict) -> None:
        line = json.dumps(value, default=str).encode() + b"\n"
        while line:
            line = line[os.write(mouth.fileno(), line) :]

    torch.set_num_threads(1)
    scope = dict(np=np, torch=torch, F=F, nn=nn, metrics=metrics, MODELS=MODELS, LOSSES=LOSSES)
    scope |= dict(dataclasses=dataclasses, math=math, labkit=labkit, __name__="__main__")
    others = [(parse(source), is_answer) for source, is_answer in code.others]
    own, about = parse(code.own), EXERCISES[number]
    say(dict(apart=apart, kit=sorted(from_kit(own, others) - from_kit(parse(code.staff), others))))
    bodies = [tree if full else definitions(tree) for tree, full in others if not code.alone]
    wanted = {node.id for body in [*bodies, own] for node in named(body)}
    for tree, _ in others:
        run(imports(tree, wanted), "<imports>", "", scope)
    for body in bodies:
        run(body, "<another cell>", "", scope)
    say(dict(ready=True))
    for name in code.names:  # another answer's is none
        scope.pop(name, None)
    error = run(own, f"<exercise {number}>", code.own, scope)
    missing = [name for name in code.names if name not in scope]
    if missing:
        what = f"Your cell does not define {', '.join(missing)}."
        say(dict(mistake=own_line(error) if error else what))
    answers = tuple(scope.get(name) for name in code.names)
    for case in cases:
        try:
            say(outcome(about, answers, case))
        except BaseException as stop:  # SystemExit too
            say(dict(mistake=own_line(stop)))


def parse(source: str) -> ast.Module | SyntaxError:
    """Return the statements of a cell; lines for IPython (`%timeit`, `!ls`) do nothing."""
    with_pass = re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
    for text in (source, with_pass):
        try:
            return ast.parse(text, "your cell")
        except SyntaxError as caught:
            error = caught.with_traceback(None)
        except (ValueError, RecursionError, MemoryError) as caught:
            error = SyntaxError(str(caught))
    return error


def run(tree, file: str, source: str, scope: dict) -> BaseException | None:
    """Run statement by statement; return the first error. The ones after it run all the same.

    A student tries a function below it, on what only their whole notebook has.
    """
    if isinstance(tree, SyntaxError):
        return tree
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    first = None
    for statement in tree.body:
        try:
            exec(compile(ast.Module([statement], []), file, "exec"), scope)
        except SyntaxError as error:
            first = first or error.with_traceback(None)
        except BaseException as error:  # SystemExit too
            first = first or error
    return first


def named(tree) -> list[ast.Name]:
    return [node for node in _walk(tree) if isinstance(node, ast.Name)]


def definitions(tree) -> ast.AST:
    """Return a cell's functions and classes alone."""
    return ast.Module([n for n in getattr(tree, "body", []) if isinstance(n, DEFINITIONS)], [])


def imports(tree, wanted: set[str]) -> ast.AST:
    """Return a cell's imports of the names that are wanted: others may take seconds."""
    names = {"*", *wanted}
    found = [n for n in getattr(tree, "body", []) if isinstance(n, (ast.Import, ast.ImportFrom))]
    found = [n for n in found if not names.isdisjoint(_sources(n))]
    return ast.Module(found, [])


def from_kit(tree, others: list) -> set[str]:
    """Return what of labkit a cell uses, whichever cell imports it: `labkit.metrics.eer`."""
    known = {name: f"labkit.{name}" for name in ("metrics", "MODELS", "LOSSES")}
    known["labkit"] = "labkit"
    for node in [node for other, _ in others for node in _walk(other)]:
        known |= _sources(node)
    here = {k: v for node in _walk(tree) for k, v in _sources(node).items()}
    used = {(known | here)[node.id] for node in named(tree) if node.id in known | here}
    return {name for name in used | {*here.values()} if name.split(".")[0] == "labkit"}


def _walk(tree) -> list[ast.AST]:
    return [*ast.walk(tree)] if isinstance(tree, ast.AST) else []


def _sources(node: ast.AST) -> dict[str, str]:
    """Return name → where it comes from, of an import."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {}

"""Find a model or a loss by its name, and load those of the user's own.

A new one is one class with one decorator, in a notebook cell or in a file for `load_plugin`:

    @LOSSES.register("mine")
    class MyLoss(nn.Module):
        ...
"""

import ast
import difflib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from labkit.utils import UserError, short_reason


class Registry:
    """A table from names to classes (or functions that build something).

    Upper and lower case, hyphens, underscores and spaces make no difference, so `ThinResNet50_V2`
    and `thinresnet50v2` are one name. `families["timm"]` makes an entry of what follows `timm:`.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.families: dict[str, Callable[[str], Callable]] = {}
        self._entries: dict[str, tuple[str, Callable]] = {}

    def register(self, name: str, *aliases: str) -> Callable[[Callable], Callable]:
        """Return a decorator that enters a class or function under a name and its aliases.

        A cell can be run again after a change, and may take the name of a built-in entry, which is
        said.
        """

        def enter(entry: Callable) -> Callable:
            for word in (name, *aliases):
                _, known = self._entries.get(_key(word), (name, entry))
                if is_built_in(known) != is_built_in(entry):
                    print(f"the {self.kind} {word} is now your own, not the built-in one")
                if is_built_in(known) or not is_built_in(entry):
                    self._entries[_key(word)] = (name, entry)
            return entry

        return enter

    def get(self, name: str) -> Callable:
        """Return the entry of that name; UserError with the nearest names if unknown."""
        return self._find(name)[1]

    def canonical(self, name: str) -> str:
        """Return the name as it was registered, for any spelling or alias; raises as `get`."""
        return self._find(name)[0]

    def names(self) -> list[str]:
        """Return every registered name, without aliases."""
        return [name for key, (name, _) in self._entries.items() if key == _key(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._entries

    def _find(self, name: str) -> tuple[str, Callable]:
        prefix, colon, rest = name.partition(":")
        if colon and _key(prefix) in self.families:
            return f"{_key(prefix)}:{rest}", self.families[_key(prefix)](rest)
        if name in self:
            return self._entries[_key(name)]
        keys = difflib.get_close_matches(_key(name), self._entries)
        near = " or ".join(dict.fromkeys(self._entries[key][0] for key in keys))
        hint = f"did you mean {near}?" if near else f"choose one of {', '.join(self.names())}"
        raise UserError(f"unknown {self.kind} {name!r}; {hint}")


def load_plugin(path: str | Path) -> None:
    """Run a Python file, so that what it registers can be chosen by name; UserError if it fails."""
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"the plugin {path} does not exist or is no Python file (.py)")
    name = f"labkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with names_the_line(f"the plugin {path.name} fails", path):
        spec.loader.exec_module(module)


@contextmanager
def names_the_line(what: str, file: str | Path | None) -> Iterator[None]:
    """Turn an error in code of a user's own into a UserError with `what`, its line and its file.

    file: the Python file that holds the code; None when a notebook cell does.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        path, where = os.path.abspath(file) if file else "ipykernel_", ""
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames]
        if isinstance(error, SyntaxError):
            places.append((error.filename or "", error.lineno))
        for name, line in places:
            if path in name:
                where = f" on line {line} of {file or 'its cell'}"
        raise UserError(f"{what}{where}: {short_reason(error)}") from error


def _key(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def is_built_in(entry: Callable) -> bool:
    """Return whether the kit, and not its user, has written a class or function."""
    return str(getattr(entry, "__module__", "")).startswith("labkit.")


def code_digest(entry: Callable) -> str:
    """Return 64 hexadecimal digits that change when a class or function of a user's own changes.

    Its statements count, comments left out, and those of what it uses of its file or notebook.
    """
    module, defined, digest = sys.modules[entry.__module__], {}, sha256()
    file = Path(getattr(module, "__file__", None) or os.devnull)
    for text in getattr(module, "In", None) or [file.read_text(encoding="utf-8")]:
        with suppress(SyntaxError):  # a cell that could not run
            for line in ast.parse(text).body:
                names = [node for node in ast.walk(line) if isinstance(node, ast.Name)]
                stored = [node.id for node in names if isinstance(node.ctx, ast.Store)]
                defined |= dict.fromkeys([line.name] if hasattr(line, "name") else stored, line)
    used = [entry.__name__] if entry.__name__ in defined else [*defined]
    for name in used:  # which grows
        if line := defined.pop(name, None):
            digest.update(ast.dump(line).encode())
            used += [node.id for node in ast.walk(line) if isinstance(node, ast.Name)]
    return digest.hexdigest()


MODELS = Registry("model")
LOSSES = Registry("loss")

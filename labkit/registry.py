"""Find a model or a loss by its name, and load those of the user's own.

A new one is one class with one decorator, in a notebook cell or in a file for `load_plugin`:

    @LOSSES.register("mine")
    class MyLoss(nn.Module):
        ...
"""

import difflib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
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

        A notebook cell can be run again after a change. A class of your own may take the name of a
        built-in one, whatever is imported first. Raises ValueError for an empty name or a colon.
        """
        for word in (name, *aliases):
            if not _key(word) or ":" in word:
                raise ValueError(f"a {self.kind} needs a name without a colon, not {word!r}")

        def enter(entry: Callable) -> Callable:
            for word in (name, *aliases):
                known = self._entries.get(_key(word))
                if known is None or _built_in(known[1]) or not _built_in(entry):
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
        near = dict.fromkeys(self._entries[key][0] for key in keys)
        if near:
            raise UserError(f"unknown {self.kind} {name!r}; did you mean {' or '.join(near)}?")
        raise UserError(f"unknown {self.kind} {name!r}; choose one of {', '.join(self.names())}")


def load_plugin(path: str | Path) -> None:
    """Run a Python file, so that what it registers can be chosen by name.

    Raises UserError when the file is missing or fails; the message names the line.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"the plugin {path} does not exist or is no Python file (.py)")
    name = f"labkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        where = line_of(error, path)
        raise UserError(f"the plugin {path} fails{where}: {short_reason(error)}") from error


def line_of(error: Exception, path: str | Path) -> str:
    """Return " on line N" where an error came from that line of the file, else nothing."""
    path = os.path.abspath(path)
    if isinstance(error, SyntaxError) and os.path.abspath(error.filename or "") == path:
        return f" on line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
    return f" on line {lines[-1]}" if lines else ""


def _key(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def _built_in(entry: Callable) -> bool:
    return str(getattr(entry, "__module__", "")).startswith("labkit.")


MODELS = Registry("model")
LOSSES = Registry("loss")

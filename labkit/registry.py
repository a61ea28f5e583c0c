"""Find a model or a loss by its name, and load those of the user's own.

A new one is one class with one decorator, in a notebook cell or in a file for `load_plugin`:

    @LOSSES.register("mine")
    class MyLoss(nn.Module):
        ...
"""

import difflib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType

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
        said. Raises ValueError for an empty name or a colon.
        """
        for word in (name, *aliases):
            if not _key(word) or ":" in word:
                raise ValueError(f"a {self.kind} needs a name without a colon, not {word!r}")

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
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        where = line_of(error, path)
        raise UserError(f"the plugin {path} fails{where}: {short_reason(error)}") from error


def line_of(error: Exception, path: str | Path | None) -> str:
    """Return " on line N" for an error from that line of a file (None: a cell), else nothing."""
    file = os.path.abspath(path) if path else "ipykernel_"
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    lines = [line for name, line in places if file in name]
    return f" on line {lines[-1]}" if lines else ""


def _key(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def is_built_in(entry: Callable) -> bool:
    """Return whether the kit, and not its user, has written a class or function."""
    return str(getattr(entry, "__module__", "")).startswith("labkit.")


def code_digest(entry: Callable) -> str:
    """Return 64 hexadecimal digits that change when a class or function of a user's own changes.

    Its bytecode and constants count, and those of what it uses from the same file or notebook.
    """
    module, parts, seen = vars(sys.modules[entry.__module__]), [], set()

    def add(*values: object) -> None:
        for value in values:
            value = inspect.unwrap(getattr(value, "fget", value))  # of a property or a decorator
            if isinstance(value, (int, float, str)):
                parts.append(repr(value))
            elif isinstance(value, (tuple, frozenset)):
                add(*(value if isinstance(value, tuple) else sorted(value, key=repr)))
            elif isinstance(value, CodeType):
                parts.append(f"{value.co_code.hex()} {value.co_names}")
                add(value.co_consts, *map(module.get, value.co_names))
            elif getattr(value, "__module__", "") == entry.__module__ and id(value) not in seen:
                seen.add(id(value))
                if isinstance(value, FunctionType):
                    add(value.__code__, value.__defaults__, *(value.__kwdefaults__ or {}).values())
                elif isinstance(value, type):
                    named = vars(value).items()
                    add(value.__bases__, *(v for k, v in named if callable(v) or k[:2] != "__"))

    add(entry)
    return sha256(repr(parts).encode()).hexdigest()


MODELS = Registry("model")
LOSSES = Registry("loss")

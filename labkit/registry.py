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

        A notebook cell can be run again after a change. A class of your own may take the name of a
        built-in one, whatever is imported first; a line says so. Raises ValueError for an empty
        name or a colon.
        """
        for word in (name, *aliases):
            if not _key(word) or ":" in word:
                raise ValueError(f"a {self.kind} needs a name without a colon, not {word!r}")

        def enter(entry: Callable) -> Callable:
            for word in (name, *aliases):
                known = self._entries.get(_key(word))
                if known and is_built_in(known[1]) != is_built_in(entry):
                    print(f"the {self.kind} {word} is now your own, not the built-in one")
                if known is None or is_built_in(known[1]) or not is_built_in(entry):
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


def line_of(error: Exception, path: str | Path | None) -> str:
    """Return " on line N" where an error came from that line of the file, else nothing.

    path: None for a cell of a notebook.
    """

    def there(file: str) -> bool:
        return os.path.abspath(file) == os.path.abspath(path) if path else "ipykernel_" in file

    if isinstance(error, SyntaxError) and there(error.filename or ""):
        return f" on line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if there(frame.filename)]
    return f" on line {lines[-1]}" if lines else ""


def _key(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def is_built_in(entry: Callable) -> bool:
    """Return whether the kit, and not its user, has written a class or function."""
    return str(getattr(entry, "__module__", "")).startswith("labkit.")


def code_digest(entry: Callable) -> str:
    """Return 64 hexadecimal digits that change when a class or function of a user's own changes.

    The functions, classes and constants that it uses count, those of installed packages do not.
    Neither do comments and where the code stands. Another version of Python gives other digits.
    """
    parts, seen = [], set()

    def follow(name: str, value: object) -> None:
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(value, (bool, int, float, str, tuple)):
            parts.append(f"{name} = {value!r}")
        elif isinstance(value, (FunctionType, type)) and value not in seen and _is_own(value):
            seen.add(value)
            parts.append(name)
            if isinstance(value, FunctionType):
                cells = [cell.cell_contents for cell in value.__closure__ or ()]
                keywords = tuple((value.__kwdefaults__ or {}).items())
                for used in (value.__defaults__, keywords, *cells):
                    follow(name, used)
                read(value.__code__, value.__globals__)
                return
            for part in [(base.__name__, base) for base in value.__bases__] + sorted(
                vars(value).items(), key=lambda item: item[0]
            ):
                if not part[0].startswith("__") or isinstance(part[1], FunctionType):
                    follow(*part)

    def read(code: CodeType, known: dict) -> None:
        parts.append(f"{code.co_code.hex()} {code.co_names}")
        for value in code.co_consts:
            if isinstance(value, CodeType):
                read(value, known)
            else:
                parts.append(str(sorted(map(repr, value)) if type(value) is frozenset else value))
        for name in code.co_names:
            follow(name, known.get(name))

    follow("", entry)
    return sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _is_own(value: type | FunctionType) -> bool:
    package = value.__module__.partition(".")[0]
    file = str(getattr(sys.modules.get(package), "__file__", ""))
    installed = package in {"labkit", *sys.stdlib_module_names} or "site-packages" in file
    return package == "__main__" or not installed


MODELS = Registry("model")
LOSSES = Registry("loss")

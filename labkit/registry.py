"""Find a model or a loss by its name, and load those of the user's own.

A new one is one class with one decorator, in a notebook cell or in a file for `load_plugin`:

    from labkit.registry import LOSSES

    @LOSSES.register("mine")
    class MyLoss(nn.Module):
        ...

The kit's own are entered when `labkit.models` and `labkit.losses` are imported.
"""

import difflib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

        A name can be registered again, so a notebook cell can be run again after a change. A class
        of your own may take the name of a built-in one, whatever is imported first; a line on
        stderr says so. Raises ValueError for a name that is empty or holds a colon.
        """
        for word in (name, *aliases):
            if not isinstance(word, str) or not _key(word) or ":" in word:
                raise ValueError(f"a {self.kind} needs a name without a colon, not {word!r}")

        def enter(entry: Callable) -> Callable:
            for word in (name, *aliases):
                known = self._entries.get(_key(word))
                replaces = known is not None and _built_in(known[1]) != _built_in(entry)
                if replaces:
                    print(f"the {self.kind} {word!r} is now yours, not the kit's", file=sys.stderr)
                if not (replaces and _built_in(entry)):
                    self._entries[_key(word)] = (name, entry)
            return entry

        return enter

    def get(self, name: str) -> Callable:
        """Return the class or function of that name; UserError with the nearest if unknown."""
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
        if not isinstance(name, str):
            raise UserError(f"a {self.kind} is chosen by its name, not by {name!r}")
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


def call_with_own_settings(registry: Registry, name: str, settings: dict[str, Any]) -> Any:
    """Call the entry `name` with those of `settings` that it takes.

    A run has one set of settings for every loss (a margin, say), so a setting that another entry
    of the registry takes is left out in silence. A setting of None counts as not given.

    Raises:
        UserError: the name is unknown, no entry takes one of the settings, or the entry needs a
            setting that is not given.
    """
    entry = registry.get(name)
    given = {key: value for key, value in settings.items() if value is not None}
    own = _settings_of(entry)
    if own is None:
        return entry(**given)
    known = {n for other in registry.names() for n in _settings_of(registry.get(other)) or ()}
    for unknown in given.keys() - known - own.keys():
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no {registry.kind} has a setting {unknown!r}{hint}")
    for missing, parameter in own.items():
        if missing not in given and parameter.default is parameter.empty:
            what = "set it" if missing in settings else "give it a default value in the constructor"
            raise UserError(f"the {registry.kind} {name} needs a value for {missing}: {what}")
    return entry(**{key: value for key, value in given.items() if key in own})


def load_plugin(path: str | Path) -> None:
    """Run a Python file, so that what it registers can be chosen by name.

    Raises UserError when the file is missing or fails; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the plugin {path} does not exist")
    name = f"labkit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"the plugin {path} must be a Python file (.py)")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        why = f"{line_of(error, path)}: {short_reason(error)}"
        raise UserError(f"the plugin {path} fails{why}") from error


def line_of(error: Exception, path: str | Path) -> str:
    """Return " on line N" where an error came from that line of the file, else nothing."""
    path = os.path.abspath(path)
    if isinstance(error, SyntaxError) and os.path.abspath(error.filename or "") == path:
        return f" on line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
    return f" on line {lines[-1]}" if lines else ""


def _settings_of(entry: Callable) -> dict[str, inspect.Parameter] | None:
    """The keyword arguments of a class or function; None if it takes any."""
    if inspect.isclass(entry) and getattr(entry.__init__, "__module__", "").startswith("torch."):
        return {}  # nn.Module's own constructor takes any by its signature, and refuses all
    parameters = inspect.signature(entry).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return {n: p for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL}


def _key(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def _built_in(entry: Callable) -> bool:
    return (getattr(entry, "__module__", None) or "").partition(".")[0] == "labkit"


MODELS = Registry("model")
LOSSES = Registry("loss")

"""Names of models, losses, optimizers and schedules, and what stands behind each.

A new one is one class with one decorator, in a file or in a notebook cell:

    from labkit.registry import LOSSES

    @LOSSES.register("mine")
    class MyLoss(nn.Module):
        ...

The kit's own entries are there once their module (`labkit.models`, `labkit.losses`,
`labkit.optim`) is imported.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from labkit.utils import UserError


class Registry:
    """Finds a class (or a function that builds something) by its name.

    Upper and lower case, hyphens, underscores and spaces make no difference, so `ThinResNet50_V2`
    and `thinresnet50v2` are one name.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, tuple[str, Callable]] = {}
        self._aliases: dict[str, str] = {}
        self._families: dict[str, Callable[[str], Callable]] = {}

    def register(self, name: str, *aliases: str) -> Callable[[Callable], Callable]:
        """Decorator that enters a class or function under `name` and, unseen in lists, `aliases`.

        Code outside the kit may take any name, also a built-in's; the last one entered is the one
        used, so a notebook cell can be run again after a change. A built-in never takes the place
        of a user's entry.

        Raises:
            ValueError: the name is empty or holds a colon, or two built-ins of different modules
                claim it.
        """
        for word in (name, *aliases):
            if not isinstance(word, str) or not _key(word) or ":" in word:
                raise ValueError(f"a {self.kind} needs a name without a colon, not {word!r}")

        def enter(entry: Callable) -> Callable:
            known = self._entries.get(_key(name))
            if known is not None and _built_in(entry):
                if not _built_in(known[1]):
                    return entry
                if _place(known[1]) != _place(entry):
                    raise ValueError(f"two built-in {self.kind} entries are called {name!r}")
            self._entries[_key(name)] = (name, entry)
            self._aliases.update({_key(alias): _key(name) for alias in aliases})
            return entry

        return enter

    def register_family(self, prefix: str) -> Callable[[Callable], Callable]:
        """Decorator for a function that turns the rest of `PREFIX:REST` into an entry."""

        def enter(resolve: Callable[[str], Callable]) -> Callable:
            self._families[_key(prefix)] = resolve
            return resolve

        return enter

    def get(self, name: str) -> Callable:
        """The class or function behind a name.

        Raises:
            UserError: the name is unknown; the message holds the nearest known names.
        """
        return self._find(name)[1]

    def canonical(self, name: str) -> str:
        """The name as it was registered, whatever case or alias is given.

        Raises:
            UserError: the name is unknown.
        """
        return self._find(name)[0]

    def is_built_in(self, name: str) -> bool:
        """Whether the kit's own code stands behind a name. Raises UserError as `get` does."""
        return _built_in(self.get(name))

    def names(self) -> list[str]:
        """Every registered name, without aliases, in the order in which they were entered."""
        return [name for name, _ in self._entries.values()]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        try:
            self._find(name)
        except UserError:
            return False
        return True

    def _find(self, name: str) -> tuple[str, Callable]:
        if not isinstance(name, str):
            raise UserError(f"a {self.kind} is chosen by its name, not by {name!r}")
        prefix, colon, rest = name.partition(":")
        if colon and _key(prefix) in self._families:
            return f"{prefix.strip().lower()}:{rest}", self._families[_key(prefix)](rest)
        key = _key(name)
        if key not in self._entries:
            key = self._aliases.get(key, key)
        if key not in self._entries:
            raise UserError(f"unknown {self.kind} {name!r}; {self._hint(key)}")
        return self._entries[key]

    def _hint(self, key: str) -> str:
        near = difflib.get_close_matches(key, [*self._entries, *self._aliases], n=3, cutoff=0.6)
        near = [self._entries[self._aliases.get(k, k)][0] for k in near]
        if near:
            return f"did you mean {' or '.join(dict.fromkeys(near))}?"
        return f"choose one of {', '.join(self.names()) or '(none is registered)'}"


def accepted_settings(function: Callable) -> set[str] | None:
    """Names of the keyword arguments that a class or function takes; None if it takes any.

    A class that leaves its constructor to PyTorch's `nn.Module` takes none.
    """
    if inspect.isclass(function) and function.__init__.__module__.partition(".")[0] == "torch":
        return set()
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def call_with_own_settings(registry: Registry, name: str, settings: dict[str, Any]) -> Any:
    """Call the entry `name` with those of `settings` that it takes.

    A run has one set of settings for every loss or schedule (a margin, say), so a setting that
    another entry of the same registry takes is left out in silence.

    Raises:
        UserError: the name is unknown, no entry takes one of the settings, or the entry needs a
            setting that is not given.
    """
    entry = registry.get(name)
    own = accepted_settings(entry)
    if own is not None:
        everyones = own.union(*(accepted_settings(registry.get(n)) or () for n in registry.names()))
        for unknown in sorted(set(settings) - everyones):
            near = difflib.get_close_matches(unknown, sorted(everyones), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(everyones))}"
            raise UserError(f"no {registry.kind} has a setting {unknown!r}; {hint}")
        settings = {key: value for key, value in settings.items() if key in own}
    needed = {
        p.name
        for p in inspect.signature(entry).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    missing = sorted(n for n in needed if settings.get(n) is None)
    if missing:
        raise UserError(f"the {registry.kind} {registry.canonical(name)} needs {missing[0]}")
    return entry(**settings)


def _key(name: str) -> str:
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def _built_in(entry: Callable) -> bool:
    return (getattr(entry, "__module__", None) or "").partition(".")[0] == "labkit"


def _place(entry: Callable) -> tuple[str | None, str | None]:
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", None)


MODELS = Registry("model")
LOSSES = Registry("loss")
OPTIMIZERS = Registry("optimizer")
SCHEDULERS = Registry("scheduler")

"""Models, losses and schedules of the user's own, from a Python file."""

import importlib.util
import os
import sys
from pathlib import Path

from labkit.utils import UserError, short_reason


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
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"the plugin {path} fails{line_of(error, path)}: {short_reason(error)}"
        ) from error


def line_of(error: Exception, path: str | Path) -> str:
    """ " on line N" where an error came from that line of the file, else nothing."""
    path = os.path.abspath(path)  # as the module's code names it
    if isinstance(error, SyntaxError):
        return f" on line {error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if os.path.abspath(trace.tb_frame.f_code.co_filename) == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" on line {lines[-1]}" if lines else ""

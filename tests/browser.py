"""What the browser tests and the benchmarks share: a real headless Chromium, a JupyterLab."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
}
"""Every cell is drawn at once; and widget state is saved, which is off by default, so that a test
can see that no photo is in it."""


def chromium_path() -> str | None:
    """Where the system's Chromium is, or None."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@contextmanager
def browser():
    """A headless Chromium driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def jupyter_lab(folder: Path):
    """A JupyterLab on `folder` with settings of its own; gives the address of a file there."""
    own = folder / ".own"
    for name, values in SETTINGS.items():
        path = own / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    (own / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"),
        *(f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True"),
        *("--LabApp.news_url=None", f"--LabApp.user_settings_dir={own / 'settings'}"),
        *(f"--LabApp.workspaces_dir={own / 'workspaces'}", "--LabApp.extension_manager=readonly"),
    ]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "IPYTHONDIR": str(own / "ipython"),
        "TMPDIR": str(own / "tmp"),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    with open(own / "log.txt", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, own / "log.txt")
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while time.monotonic() < last and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def run_all_cells(page) -> None:
    """Run every cell of the notebook that is open in a JupyterLab page, once its kernel is up."""
    page.wait_for_function(
        """() => {
          const panel = window.jupyterapp?.shell?.currentWidget
          return panel?.sessionContext?.session?.kernel?.connectionStatus === 'connected'
            && panel.content.widgets.length > 3
        }""",
        timeout=60_000,
    )
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")


def save_notebook(page, path: Path) -> dict:
    """Save the open notebook and read it."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    return json.loads(path.read_text(encoding="utf-8"))


def choose_files(page, *paths: Path) -> None:
    """Choose photos through the file chooser of the look-alike app."""
    with page.expect_file_chooser() as chooser:
        page.click("button.widget-upload")
    chooser.value.set_files([str(path) for path in paths])

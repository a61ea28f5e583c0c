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

import nbformat

from labkit.notebooks import notebook_folder

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
SETTINGS = {  # every cell is drawn at once; widget state is saved, as a test looks for photos in it
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
}


def chromium_path() -> str | None:
    """Where the system's Chromium is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield started
        started.close()


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


@contextmanager
def jupyter_lab(folder: Path):
    """A JupyterLab on `folder` with settings of its own; gives the address of a file there."""
    own = folder / ".own"
    for name, values in SETTINGS.items():
        path = own / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
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
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(own / name.lower()) for name in folders}
    environment["TMPDIR"] = str(folder)  # where a test would see a photo that is left there
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    with open(own / "log.txt", "wb") as log:
        output = dict(stdout=log, stderr=log)
        server = subprocess.Popen(command, env=environment, start_new_session=True, **output)
    try:
        last = time.monotonic() + 60
        while not _answers(f"http://127.0.0.1:{port}/api?token={token}"):
            if time.monotonic() > last or server.poll() is not None:
                raise RuntimeError(f"JupyterLab did not start:\n{(own / 'log.txt').read_text()}")
            time.sleep(0.1)
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
    finally:
        server.send_signal(signal.SIGTERM)  # it ends its kernels
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for_kernel(page) -> None:
    page.wait_for_function(
        """() => {
          const panel = window.jupyterapp?.shell?.currentWidget
          return panel?.sessionContext?.session?.kernel?.connectionStatus === 'connected'
            && panel.content.widgets.length > 3
        }""",
        timeout=60_000,
    )


def wait_until_idle(page) -> None:
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext"
        ".session.kernel.status === 'idle'",
        timeout=60_000,
    )


def run_cell(page, index: int, code: str | None = None) -> str:
    """Run a cell of the notebook, with other code if it is given; return what the page shows."""
    page.evaluate(
        """([i, code]) => {
          const notebook = window.jupyterapp.shell.currentWidget.content
          if (code !== null) notebook.widgets[i].model.sharedModel.setSource(code)
          notebook.activeCellIndex = i
          notebook.deselectAll()
          return window.jupyterapp.commands.execute('notebook:run-cell')
        }""",
        [index, code],
    )
    wait_until_idle(page)
    page.wait_for_timeout(300)
    return page.locator(".jp-Cell").nth(index).inner_text()


@contextmanager
def lookalike_page(chromium, folder: Path, run: Path, data: Path, height: int):
    """Notebook 4 in a JupyterLab on `folder`, run to its end on the weights of `run`."""
    notebook = nbformat.read(notebook_folder() / "04_lookalike.ipynb", as_version=4)
    settings = f'preset, run_dir = "smoke", {str(run)!r}\ndata_dir = {str(data)!r}'
    notebook.cells.insert(2, nbformat.v4.new_code_cell(settings))
    nbformat.write(notebook, folder / "04_lookalike.ipynb")
    with jupyter_lab(folder) as address:
        page = chromium.new_page(viewport={"width": 1280, "height": height})
        page.goto(address("04_lookalike.ipynb"))
        wait_for_kernel(page)
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_selector("button.widget-upload", timeout=300_000)
        wait_until_idle(page)
        yield page
        page.close()


def choose_files(page, *paths: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("button.widget-upload")
    chooser.value.set_files([str(path) for path in paths])

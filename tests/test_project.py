"""The promises of the project's own files."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from labkit.cli import build_parser

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# From the top down: a module may import the ones before it.
ORDER = """
    utils registry config metrics data models losses checkpoint devices distributed checks embed
    gradcache losslog train launch evaluate crop likeness gallery plots facemap widgets exercises
    synth lab notebooks commands cli __main__
""".split()


def labkit_imports(path: Path) -> set[str]:
    """Top-level parts of labkit that a file imports when it is loaded."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "labkit":
                names = [f"labkit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("labkit.")}
    return found - {"__version__"}


def test_a_module_imports_only_those_above_it():
    files = sorted((ROOT / "labkit").rglob("*.py"))
    parts = {path: path.relative_to(ROOT / "labkit").parts[0].removesuffix(".py") for path in files}
    assert set(parts.values()) - {"__init__"} == set(ORDER)
    for path, part in parts.items():
        if part != "__init__":
            below = {name for name in labkit_imports(path) if ORDER.index(name) > ORDER.index(part)}
            assert not below, f"{path.relative_to(ROOT)} imports {below} from below"


def test_the_readme_names_every_module():
    table = README.split("## Package layout")[1].split("Definitions that matter")[0]
    named = {word.strip("/") for word in re.findall(r"`([a-z_/]+)`", table)}
    assert set(ORDER) - {"__main__"} <= named


def test_conda_installs_the_same_package_from_the_same_lists():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    assert from_pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_every_dependency_is_pinned_to_a_version_that_fits_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {pin.name.lower().replace("_", "-"): pin for pin in pins}
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue
        pin = pinned[requirement.name.lower()]
        (version,) = [part.version for part in pin.specifier]
        assert requirement.specifier.contains(version), requirement.name


@pytest.mark.parametrize("line", re.findall(r"^(labkit .+)$", PAGES, flags=re.MULTILINE))
def test_every_command_of_the_documentation_is_one(line, capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([line.split()[1], "--help"])
    assert caught.value.code == 0
    flags = re.findall(r"(?<![\w-])--?[A-Za-z_-]+", capsys.readouterr().out)
    assert set(re.findall(r"(?<![\w-])--?[A-Za-z_-]+", line)) <= set(flags)


def test_the_readmes_example_of_a_model_and_a_loss_trains(data_directory, tmp_path):
    """From a file, named in the settings, and from a notebook's cells."""
    from labkit.config import TrainConfig
    from labkit.train import fit

    example, call = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    plugin = tmp_path / "my_losses.py"
    plugin.write_text(example)
    small = dict(batch_size=8, image_size=64, max_epoch=2, device="cpu")
    config = TrainConfig(train_dir=data_directory / "train", run_dir=tmp_path / "file", **small)
    mine = dict(model="tiny", loss="spread", images_per_class=2)
    result = fit(replace(config, plugin=str(plugin), **mine))
    assert result.rows[1]["train_loss"] < result.rows[0]["train_loss"]

    class Lab:
        def config(self, stage, **changes):
            return replace(config, **changes | dict(run_dir=str(tmp_path / "cell")))

    cells = {"lab": Lab(), "__name__": "__main__"}
    exec(example, cells)
    exec(call, cells)
    assert cells["result"].rows[1]["train_loss"] == result.rows[1]["train_loss"]

import sys

import pytest

from labkit.registry import Registry, code_digest, load_plugin, names_the_line
from labkit.utils import UserError


def defined_in(module):
    return type("Entry", (), {"__module__": module})


@pytest.fixture
def losses():
    registry = Registry("loss")
    registry.register("AngularPrototypical", "angproto")(defined_in("labkit.losses"))
    registry.register("softmax")(defined_in("labkit.losses"))
    return registry


def test_names_are_found_in_any_case_with_or_without_separators(losses):
    entry = losses.get("AngularPrototypical")
    for spelling in ("angularprototypical", "Angular_Prototypical", "ANG-PROTO", "ang proto"):
        assert losses.get(spelling) is entry
        assert losses.canonical(spelling) == "AngularPrototypical"
        assert spelling in losses
    assert "triplet" not in losses and None not in losses
    assert losses.names() == ["AngularPrototypical", "softmax"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sofmax", "unknown loss 'sofmax'; did you mean softmax?"),
        ("angprto", "did you mean AngularPrototypical?"),
        ("zzz", "choose one of AngularPrototypical, softmax"),
    ],
)
def test_unknown_name_is_answered_with_the_nearest_ones(losses, name, message):
    with pytest.raises(UserError, match=message):
        losses.get(name)


@pytest.mark.parametrize("name", ["mine", "Softmax", "ang_proto"])
def test_a_cell_can_be_run_again_and_may_take_a_built_ins_name_or_alias(losses, name):
    for _ in range(2):
        mine = losses.register(name)(defined_in("__main__"))
        assert losses.get(name) is mine
    losses.register("softmax")(defined_in("labkit.losses"))  # the kit's module comes later
    losses.register("AngularPrototypical", "angproto")(defined_in("labkit.losses"))
    assert losses.get(name) is mine
    assert losses.get("AngularPrototypical") is not mine
    assert losses.names().count(name) == 1


def test_a_family_makes_entries_from_the_rest_of_the_name(losses):
    losses.families["power"] = lambda rest: lambda x: x ** int(rest)
    assert losses.get("Power:3")(2) == 8
    assert losses.canonical("Power:3") == "power:3"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mine.py", "x = 1\nraise RuntimeError('no')\n", r"fails on line 2 of .*mine\.py: Runtime"),
        ("mine.py", "x = 1\n\nx = = 2\n", r"mine\.py fails on line 3 of .*mine\.py: SyntaxError"),
        ("mine.py", "import nowhere_at_all\n", r"line 1 of .*mine\.py: ModuleNotFoundError"),
        ("mine.py", None, r"mine\.py does not exist"),
        ("mine.ipynb", "{}", r"mine\.ipynb does not exist or is no Python file"),
    ],
)
def test_a_plugin_that_will_not_do_is_one_line(tmp_path, monkeypatch, file, text, message):
    if text:
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in (file, tmp_path / file):
        with pytest.raises(UserError, match=message) as caught:
            load_plugin(path)
        assert "\n" not in str(caught.value)


def test_a_name_that_is_taken_from_a_built_in_is_said_once(losses, capsys):
    losses.register("mine")(defined_in("__main__"))
    assert capsys.readouterr().out == ""
    for _ in range(2):
        losses.register("Softmax")(defined_in("__main__"))
    assert capsys.readouterr().out == "the loss Softmax is now your own, not the built-in one\n"


OWN = """
import torch
SCALE = 2
def helper(x, power=2):
    return x ** power
class Base(torch.nn.Module):
    margin = 0.1
class Mine(Base):
    @torch.no_grad()
    def update(self, rate=0.9, act=torch.relu):
        self.rate = [rate * SCALE for _ in range(3)]
    def forward(self, x):  # a comment
        return SCALE * helper(x) + sum(v in {"a", "b", "c"} for v in "ab")
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2", "SCALE = 3"),
        ("power=2", "power=3"),
        ("x ** power", "x * power"),
        ("margin = 0.1", "margin = 0.2"),
        ("rate=0.9", "rate=0.8"),
        ("rate * SCALE", "rate + SCALE"),
        ("SCALE * helper(x)", "SCALE + helper(x)"),
        ("x)  +", "x) +"),
        ("# a comment", "# another"),
        ("import torch\n", "import torch\n\nfit = 10\n"),
    ],
)
@pytest.mark.parametrize("place", ["file", "notebook", "long notebook"])
def test_code_of_ones_own_is_the_same_until_it_does_something_else(
    tmp_path, monkeypatch, old, new, place
):
    def digest(text):
        (tmp_path / "own.py").write_text(text)
        load_plugin(tmp_path / "own.py")
        module = sys.modules["labkit_plugin_own"]
        if place != "file":
            module.In = ["", *text.split("class Mine"), "%no python"]
            module.In[2] = "class Mine" + module.In[2]
        if place == "long notebook":  # cells that have run before
            module.In[:0] = OWN.replace("* SCALE", "/ SCALE"), "class Mine:\n    pass"
        return code_digest(module.Mine)

    same = old in ("x)  +", "# a comment", "import torch\n")
    assert (digest(OWN) == digest(OWN.replace(old, new))) == same


def test_an_error_from_elsewhere_has_no_line_in_the_plugin():
    for file, message in (("plugin.py", "fails: ValueError: inv"), (__file__, "fails on line")):
        with pytest.raises(UserError, match=message), names_the_line("it fails", file):
            int("x")

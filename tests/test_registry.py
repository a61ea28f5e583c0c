import functools

import pytest
from torch import nn

from labkit.registry import Registry, call_with_own_settings, line_of, load_plugin
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


def test_unknown_name_is_answered_with_the_nearest_ones(losses):
    with pytest.raises(UserError, match="unknown loss 'sofmax'; did you mean softmax?"):
        losses.get("sofmax")
    with pytest.raises(UserError, match="did you mean AngularPrototypical?"):
        losses.get("angprto")
    with pytest.raises(UserError, match="choose one of AngularPrototypical, softmax"):
        losses.get("zzz")
    with pytest.raises(UserError, match="by its name"):
        losses.get(None)


def test_a_notebook_cell_can_be_run_again_in_silence(losses, capsys):
    for _ in range(2):
        mine = losses.register("mine")(defined_in("__main__"))
        assert losses.get("mine") is mine
    assert losses.names().count("mine") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["Softmax", "ang_proto"])
def test_user_code_may_take_a_built_ins_name_or_alias_which_is_said_once(losses, capsys, name):
    built_in = losses.get(name)
    for _ in range(2):
        mine = losses.register(name)(defined_in("__main__"))
        assert losses.get(name) is mine
    assert capsys.readouterr().err == f"the loss {name!r} is now yours, not the kit's\n"
    assert losses.get("AngularPrototypical") is not mine
    assert losses.register(name)(built_in) is built_in  # the kit's module is loaded again
    assert losses.get(name) is mine


@pytest.mark.parametrize("name", ["", " -_", "a:b", 3])
def test_unusable_names_are_refused(losses, name):
    with pytest.raises(ValueError, match="name"):
        losses.register(name)


def test_a_family_makes_entries_from_the_rest_of_the_name(losses):
    losses.families["power"] = lambda rest: lambda x: x ** int(rest)
    assert losses.get("Power:3")(2) == 8
    assert losses.canonical("Power:3") == "power:3"


def test_settings_go_to_those_that_take_them_and_typos_are_told():
    class Plain(nn.Module):
        pass

    registry = Registry("thing")
    registry.register("one")(lambda margin=1: ("one", margin))
    registry.register("two")(lambda scale: ("two", scale))
    registry.register("none")(Plain)
    registry.register("bare")(type("Bare", (), {}))
    both = {"margin": 5, "scale": 6}
    assert call_with_own_settings(registry, "one", both) == ("one", 5)
    assert call_with_own_settings(registry, "one", {"margin": None}) == ("one", 1)
    assert call_with_own_settings(registry, "two", both) == ("two", 6)
    assert isinstance(call_with_own_settings(registry, "none", both), Plain)
    assert call_with_own_settings(registry, "bare", both)
    with pytest.raises(UserError, match="no thing has a setting 'sclae'; did you mean scale?"):
        call_with_own_settings(registry, "two", {"sclae": 1})
    with pytest.raises(UserError, match="the thing two needs a value for scale: set it"):
        call_with_own_settings(registry, "two", {"scale": None})
    with pytest.raises(UserError, match="needs a value for scale: give it a default value in the"):
        call_with_own_settings(registry, "two", {"margin": 1})
    registry.register("any")(functools.partial(lambda **rest: rest, margin=3))
    assert call_with_own_settings(registry, "any", {"own": 1}) == {"margin": 3, "own": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nraise RuntimeError('no')\n", r"broken\.py fails on line 2: RuntimeError: no"),
        ("x = 1\n\nx = = 2\n", r"broken\.py fails on line 3: SyntaxError"),
        ("import nowhere_at_all\n", r"fails on line 1: ModuleNotFoundError: No module named"),
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_plugin_that_fails_is_one_line_with_its_line_number(
    tmp_path, monkeypatch, text, message, relative
):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_plugin("broken.py" if relative else tmp_path / "broken.py")
    assert "\n" not in str(caught.value)


def test_a_plugin_must_be_a_python_file_that_exists(tmp_path):
    with pytest.raises(UserError, match=r"mine\.py does not exist"):
        load_plugin(tmp_path / "mine.py")
    (tmp_path / "mine.ipynb").write_text("{}")
    with pytest.raises(UserError, match=r"must be a Python file"):
        load_plugin(tmp_path / "mine.ipynb")


def test_an_error_from_elsewhere_has_no_line_in_the_plugin():
    with pytest.raises(ValueError) as caught:
        int("x")
    assert line_of(caught.value, "plugin.py") == ""
    assert line_of(caught.value, __file__).startswith(" on line ")

import functools

import pytest
from torch import nn

from labkit.registry import Registry, accepted_settings, call_with_own_settings
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
    assert "triplet" not in losses
    assert None not in losses


def test_names_are_listed_in_order_without_aliases(losses):
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


def test_a_notebook_cell_can_be_run_again(losses):
    first = losses.register("mine")(defined_in("__main__"))
    assert losses.get("mine") is first
    second = losses.register("mine")(defined_in("__main__"))
    assert losses.get("mine") is second
    assert losses.names().count("mine") == 1


def test_user_code_may_replace_a_built_in_and_keeps_its_place(losses):
    built_in = losses.get("softmax")
    mine = losses.register("Softmax")(defined_in("my_plugin"))
    assert losses.get("softmax") is mine
    assert losses.register("softmax")(built_in) is built_in
    assert losses.get("softmax") is mine


def test_user_code_may_take_an_alias_as_a_name(losses):
    mine = losses.register("angproto")(defined_in("my_plugin"))
    assert losses.get("angproto") is mine
    assert losses.get("AngularPrototypical") is not mine


def test_two_built_ins_cannot_share_a_name_but_a_reload_can_replace(losses):
    reloaded = defined_in("labkit.losses")
    losses.register("softmax")(reloaded)
    assert losses.get("softmax") is reloaded
    with pytest.raises(ValueError, match="two built-in"):
        losses.register("softmax")(defined_in("labkit.models"))


@pytest.mark.parametrize("name", ["", " -_", "a:b", 3])
def test_unusable_names_are_refused(losses, name):
    with pytest.raises(ValueError, match="name"):
        losses.register(name)


def test_a_family_makes_entries_from_the_rest_of_the_name(losses):
    losses.register_family("power")(lambda rest: lambda x: x ** int(rest))
    assert losses.get("Power:3")(2) == 8
    assert losses.canonical("Power:3") == "power:3"


def test_accepted_settings_of_functions_classes_and_modules():
    class Plain(nn.Module):
        pass

    class WithMargin(nn.Module):
        def __init__(self, margin):
            super().__init__()

    assert accepted_settings(lambda a, *, b=1: None) == {"a", "b"}
    assert accepted_settings(lambda a, **rest: None) is None
    assert accepted_settings(Plain) == set()
    assert accepted_settings(WithMargin) == {"margin"}


def test_anything_that_can_be_called_can_be_registered(losses):
    shorter = functools.partial(dict, margin=0.3)
    assert losses.register("shorter")(shorter) is shorter
    assert losses.get("shorter")(scale=2) == {"margin": 0.3, "scale": 2}


def test_settings_go_to_those_that_take_them_and_typos_are_told():
    registry = Registry("thing")
    registry.register("one")(lambda margin=1: ("one", margin))
    registry.register("two")(lambda scale: ("two", scale))
    both = {"margin": 5, "scale": 6}
    assert call_with_own_settings(registry, "one", both) == ("one", 5)
    assert call_with_own_settings(registry, "two", both) == ("two", 6)
    with pytest.raises(UserError, match="no thing has a setting 'sclae'; did you mean scale?"):
        call_with_own_settings(registry, "two", {"sclae": 1})
    with pytest.raises(UserError, match="the thing two needs scale"):
        call_with_own_settings(registry, "two", {"margin": 1})

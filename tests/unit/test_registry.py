"""Names to objects, and option tables to checked options."""

from __future__ import annotations

from fractions import Fraction

import pytest
from pydantic import BaseModel, ConfigDict, Field

from pyvision_rl.errors import ConfigError
from pyvision_rl.registry import missing, parse_options, resolve, suggestion

TABLE = {"fraction": "fractions:Fraction", "torch": "no_such_package_of_ours:Thing"}


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    depth: int = 1


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(1, gt=0)
    seed: int = 0
    inner: Inner = Inner()
    layers: tuple[Inner, ...] = ()
    name: str


def test_short_and_dotted_names_give_the_object():
    assert resolve("fraction", TABLE, "x.name") is Fraction
    assert resolve("fractions:Fraction", {}, "x.name") is Fraction
    assert resolve("fractions:Fraction.limit_denominator", {}, "x") is Fraction.limit_denominator


def test_nothing_is_imported_before_it_is_asked_for():
    assert resolve("fraction", TABLE, "x.name") is Fraction  # the other entry cannot be imported


def test_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ConfigError) as error:
        resolve("fracton", TABLE, "tasks.name")
    message = str(error.value)
    assert "tasks.name = 'fracton'" in message
    assert "did you mean 'fraction'" in message
    assert "fraction, torch" in message
    assert "package.module:Name" in message


@pytest.mark.parametrize("name", ["", ":", "fractions:", ":Fraction", "fractions"])
def test_half_a_dotted_name_is_refused(name):
    with pytest.raises(ConfigError, match="is not known"):
        resolve(name, TABLE, "x")


def test_module_or_attribute_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no_such_package_of_ours"):
        resolve("torch", TABLE, "policy.name")
    with pytest.raises(ConfigError, match="did you mean 'Fraction'"):
        resolve("fractions:Fractoin", {}, "policy.name")


def test_missing_optional_package_names_the_extra():
    error = missing(ModuleNotFoundError("No module named 'torch'", name="torch.nn"), "x")
    assert isinstance(error, ConfigError)
    assert 'pip install "pyvision-rl[train]"' in str(error)
    other = missing(ModuleNotFoundError("No module named 'zzz'", name="zzz"), "x")
    assert "pip install" not in str(other)
    assert "zzz" in str(other)


def test_options_are_checked_and_typed():
    made = parse_options(Options, {"name": "a", "layers": [{"depth": 2}]}, "tasks.options")
    assert (made.name, made.size, made.layers) == ("a", 1, (Inner(depth=2),))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a", "sede": 1}, ("tasks.options.sede", "did you mean 'seed'", "known keys")),
        ({"name": "a", "size": 0}, ("tasks.options.size = 0", "greater than 0")),
        ({"name": "a", "size": "big"}, ("tasks.options.size = 'big'", "valid integer")),
        ({}, ("tasks.options.name is missing",)),
        (
            {"name": "a", "inner": {"deep": 1}},
            ("tasks.options.inner.deep", "did you mean 'depth'", "known keys: depth"),
        ),
        (
            {"name": "a", "layers": [{}, {"deep": 1}]},
            ("tasks.options.layers.1.deep", "did you mean 'depth'"),
        ),
    ],
)
def test_wrong_option_names_key_value_and_what_is_allowed(options, words):
    with pytest.raises(ConfigError) as error:
        parse_options(Options, options, "tasks.options")
    for word in words:
        assert word in str(error.value)


def test_every_fault_is_told_at_once():
    with pytest.raises(ConfigError) as error:
        parse_options(Options, {"size": 0, "zzz": 1}, "o")
    assert len(str(error.value).splitlines()) == 3


def test_far_names_get_no_suggestion():
    assert suggestion("zzzz", ["alpha", "beta"]) == ""

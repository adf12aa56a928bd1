"""From names in a config to the objects they stand for, and from option tables to checked options.

In: a short name or ``package.module:Name``, and a table of the known short names; or a mapping of
options and the pydantic class that describes them. Out: the object, imported only now; or an
instance of the class. Keeps no global list: each folder's ``__init__`` holds its own ``TABLE``.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from pyvision_rl.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "tokenizers": "train",
    "safetensors": "train",
    "accelerate": "train",
    "peft": "lora",
    "pyarrow": "data",
    "av": "video",
    "sklearn": "demo",
    "math_verify": "grading",
    "tensorboard": "track",
    "trackio": "track",
    "wandb": "track",
}
"""Optional package -> the extra of ours that installs it."""


def resolve(name: str, table: Mapping[str, str], what: str) -> Any:
    """Return the object that ``name`` stands for, importing its module now.

    Args:
        name: A key of ``table``, or ``package.module:Name``.
        table: Short name -> ``package.module:Name``.
        what: The config key the name came from, for the error message.

    Raises:
        ConfigError: The name is unknown, its module cannot be imported, or holds no such object.
    """
    target = table.get(name, name)
    module_name, colon, attribute = target.partition(":")
    if not (colon and module_name and attribute):
        known = ", ".join(sorted(table)) or "none"
        raise ConfigError(
            f"{what} = {name!r} is not known{suggestion(name, table)}; "
            f"known: {known}, or package.module:Name"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise missing(error, f"{what} = {name!r}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            hint = suggestion(part, public)
            raise ConfigError(f"{what} = {name!r}: {module_name} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def missing(error: ImportError, where: str) -> ConfigError:
    """Return the error to raise instead of ``error``: it names the extra that would help."""
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS and isinstance(error, ModuleNotFoundError):
        return ConfigError(
            f"{where} needs {package}, which is not installed; "
            f'run: pip install "pyvision-rl[{EXTRAS[package]}]"'
        )
    return ConfigError(f"{where} cannot be imported: {error}")


def parse_options(model: type[M], options: Mapping[str, Any], where: str) -> M:
    """Return ``options`` as a checked instance of ``model``.

    Args:
        model: A pydantic class; unknown keys are errors only if it forbids extras.
        options: Key -> value, as written in a config.
        where: The dotted place of the options, e.g. ``tasks.options``.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or range.
    """
    try:
        made = model.model_validate(dict(options))
    except ValidationError as error:
        lines = [describe(fault, model, where) for fault in error.errors()]
        # Not "from error": pydantic quotes what it was given, and that may be a secret.
        raise ConfigError("\n".join(lines)) from None
    for key, value in made:
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}.{key} = {value}: wants a finite number")
    return made


def describe(fault: Mapping[str, Any], model: type[BaseModel], where: str) -> str:
    """Return one pydantic fault in a line that names the key, the value and what is expected."""
    location = tuple(fault["loc"])
    key = ".".join(str(part) for part in (*([where] if where else []), *location))
    if fault["type"] == "extra_forbidden":
        known = known_keys(model, location[:-1])
        allowed = ", ".join(sorted(known)) or "none"
        return f"{key} is not a key{suggestion(str(location[-1]), known)}; known keys: {allowed}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    expected = str(fault["msg"])
    expected = expected[:1].lower() + expected[1:]
    if fault["type"] == "secret":
        return f"{key} {expected}"
    return f"{key} = {fault['input']!r}: {expected}"


def known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the keys allowed at ``location`` inside ``model``; empty when anything is."""
    current: type[BaseModel] | None = model
    named = False
    for part in location:
        if current is None:
            return ()
        # An index into a list, or a name in a table, stays at the element class found before it.
        if isinstance(part, str) and not named:
            field = current.model_fields.get(part)
            current = section_class(field.annotation) if field else None
            named = field is not None and get_origin(field.annotation) is dict
        else:
            named = False
    return tuple(current.model_fields) if current else ()


def section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the pydantic class inside ``X``, ``X | None`` or ``tuple[X, ...]``; None if none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = section_class(argument)
        if found is not None:
            return found
    return None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""

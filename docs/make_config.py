"""Write ``docs/config.md`` from the field docs of ``pyvision_rl.config``.

Run it with ``make docs``; a test fails when the page is stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pyvision_rl.config import Config
from pyvision_rl.registry import section_class

PAGE = Path(__file__).with_name("config.md")


def config_reference() -> str:
    """Return the Markdown page that lists every key with its type, default and meaning."""
    lines = [
        "# Config reference",
        "",
        "Made from the field docs in `src/pyvision_rl/config/` by `make docs`; do not edit it.",
        "One TOML file is one run. Unknown keys are errors. Every key can be set from the command",
        "line with `--set section.key=value`; entries of lists by index,",
        "`--set sft.stages.0.steps=3`. Relative paths start at the working directory; those inside",
        "a task file start at the folder of that file.",
    ]
    places: dict[type[BaseModel], list[str]] = {}
    for section, place in _sections(Config, ""):
        places.setdefault(section, []).append(place)
    for section, where in places.items():
        title = "Top level" if section is Config else section.__name__
        used = "" if section is Config else "In " + ", ".join(f"`{w}`" for w in where) + ". "
        lines += ["", f"## {title}", "", used + _prose(section.__doc__), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(name, field) for name, field in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _prose(text: str | None) -> str:
    """Return a docstring as one line of Markdown."""
    return " ".join((text or "").split()).replace("``", "`")


def _sections(model: type[BaseModel], place: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield ``model`` and every section inside it, each with its place in a file."""
    yield model, place
    for name, field in model.model_fields.items():
        nested = section_class(field.annotation)
        if nested is None:
            continue
        inner = f"{place.strip('[]')}.{name}".lstrip(".")
        listed = get_origin(field.annotation) is tuple
        yield from _sections(nested, f"[[{inner}]]" if listed else f"[{inner}]")


def _row(name: str, field: FieldInfo) -> str:
    meaning = _prose(field.description)
    bounds = [_bound(m) for m in field.metadata]
    if any(bounds):
        meaning = f"{meaning} ({', '.join(b for b in bounds if b)})".strip()
    cells = (f"`{name}`", _type_name(field.annotation), _default(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _bound(constraint: Any) -> str:
    for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
        if hasattr(constraint, attribute):
            return f"{sign} {getattr(constraint, attribute)}"
    return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "its defaults"
    if default is None:
        return "not set"
    if isinstance(default, Mapping):
        return "`{}`"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _type_name(annotation: Any) -> str:
    """Return a type as people write it: tables link to their own section."""
    if annotation is type(None):
        return "not set"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if get_origin(annotation) is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(annotation))
    arguments = [a for a in get_args(annotation) if a is not Ellipsis and a is not type(None)]
    if get_origin(annotation) is tuple:
        distinct = list(dict.fromkeys(_type_name(a) for a in arguments))
        count = "" if Ellipsis in get_args(annotation) else f"{len(arguments)} "
        return f"list of {count}{', '.join(distinct)}"
    if get_origin(annotation) is dict:
        return "table"
    if arguments:
        return " or ".join(_type_name(a) for a in arguments)
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    return names.get(annotation.__name__, annotation.__name__)


if __name__ == "__main__":
    PAGE.write_text(config_reference(), encoding="utf-8")

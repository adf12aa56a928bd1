"""From files to a checked ``Config`` and back.

In: a TOML file, a ``run.json`` or the run folder that holds one, and ``--set a.b=c`` overrides.
Out: a ``Config``, or its JSON form, which loads again to an equal one. Errors name the file or
the override, the dotted key, and the nearest known key. Reads no environment variables and does
not check that the files named inside a config exist.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pyvision_rl.config import SCHEMA, Config
from pyvision_rl.errors import ConfigError
from pyvision_rl.registry import describe

_PACKAGE = Path(__file__).parent
_PACKAGED = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")
"""The configs folder in an installed wheel, and in a checkout."""
_STUDY = "study_"
"""Files of that folder that begin so hold a study, not a run."""

M = TypeVar("M", bound=BaseModel)


def find_config(name: str) -> Path:
    """Return the file that ``name`` means: a path, or the bare name of a packaged config.

    Raises:
        ConfigError: There is no such file; packaged configs with a near name are listed.
    """
    path = Path(name)
    if path.is_dir() and not (path / "run.json").exists():
        raise ConfigError(
            f"{name} is a folder without a run.json; give a TOML file or a run folder"
        )
    if path.exists():
        return path
    return packaged_file(name, packaged_configs(), "config file", "configs")


def packaged_file(name: str, packaged: Mapping[str, Path], what: str, those: str) -> Path:
    """Return a packaged file by its bare name, with or without its ending.

    Args:
        name: As it was typed.
        packaged: The files, by bare name.
        what: What one of them is called.
        those: What several are called.

    Raises:
        ConfigError: There is none of that name; it tells a near one, and all.
    """
    stem = name.removesuffix(".toml")
    if stem in packaged:
        return packaged[stem]
    near = difflib.get_close_matches(Path(stem).name, packaged, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(packaged) or "none"
    raise ConfigError(f"no {what} {name!r}{hint}; packaged {those}: {known}")


def packaged_configs() -> dict[str, Path]:
    """Return the configs of runs that come with the package, by bare name."""
    return {name: path for name, path in _packaged().items() if not name.startswith(_STUDY)}


def packaged_studies() -> dict[str, Path]:
    """Return the configs of studies that come with the package, by bare name."""
    return {name: path for name, path in _packaged().items() if name.startswith(_STUDY)}


def _packaged() -> dict[str, Path]:
    for folder in _PACKAGED:
        if folder.is_dir():
            return {p.stem: p for p in sorted(folder.glob("*.toml"))}
    return {}


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the checked config in ``path`` with ``overrides`` applied.

    Args:
        path: A TOML file; a JSON file with the config under the key ``config``; or a folder
            with a ``run.json``.
        overrides: ``dotted.key=value``, later ones win. A value is read as TOML, and as plain
            text if it is none. ``sft.stages.0.steps=3`` reaches into a list.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong.
    """
    return load_section(Config, path, overrides)


def load_section(model: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """Return ``path`` read as another class than ``Config``, in the same way.

    Raises:
        ConfigError: The file cannot be read, or a key or value is wrong.
    """
    raw = _read(path)
    keys = tuple(_apply(raw, override) for override in overrides)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            location = tuple(str(part) for part in fault["loc"])
            by_override = any(
                location[: len(k)] == k or k[: len(location)] == location for k in keys
            )
            where = "--set" if by_override else str(path)
            lines.append(f"{where}: {describe(fault, model, '')}")
        # Not "from error": pydantic quotes what it was given, and that may be a secret.
        raise ConfigError("\n".join(lines)) from None


def resolved(config: Config) -> dict[str, Any]:
    """Return every key of ``config`` with its value, as JSON types."""
    return config.model_dump(mode="json")


def dump_config(config: Config) -> str:
    """Return ``config`` as the text of a JSON file that ``load_config`` reads to an equal one."""
    return json.dumps({"schema": SCHEMA, "config": resolved(config)}, indent=2) + "\n"


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / "run.json"
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows mark it
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        if path.suffix != ".json":
            return tomllib.loads(text)
        record = json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ConfigError(f"{path}: holds no config; a run.json has one under the key 'config'")
    if record.get("schema", SCHEMA) != SCHEMA:
        raise ConfigError(f"{path}: schema {record['schema']!r}; this version reads {SCHEMA}")
    return dict(record["config"])


def _apply(raw: dict[str, Any], override: str) -> tuple[str, ...]:
    """Write one override into ``raw`` and return the key path it set."""
    key, equals, text = override.partition("=")
    path = _key_path(key.strip()) if equals else ()
    if not path:
        raise ConfigError(f"--set {override!r}: write it as section.key=value")
    node: Any = raw
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, dict):
            if last:
                node[part] = read_value(text)
            # A resolved config holds null for a section that was left out.
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            continue
        where = ".".join(path[:depth])
        if not isinstance(node, list):
            raise ConfigError(f"--set {override}: {where} = {node!r} holds no keys")
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(
                f"--set {override}: {where} is a list of {len(node)}; {part!r} is no index of it"
            )
        if last:
            node[int(part)] = read_value(text)
        node = node[int(part)]
    return path


def _key_path(key: str) -> tuple[str, ...]:
    """Return a dotted key as its parts; TOML rules, so a part with a dot is quoted."""
    try:
        node: Any = tomllib.loads(f"{key} = 0") if "\n" not in key else {}
    except tomllib.TOMLDecodeError:
        return ()
    path = []
    while isinstance(node, dict) and len(node) == 1:
        part, node = next(iter(node.items()))
        path.append(part)
    return tuple(path)


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it on one line."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {toml_value(v)}" for key, v in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def read_value(text: str) -> Any:
    """Return ``text`` read as a TOML value; as plain text if it is none."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A text with a line break could smuggle in more keys; then it is plain text.
    return table["value"] if set(table) == {"value"} else text

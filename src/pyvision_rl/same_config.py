"""Whether a folder was made with the config that wants to go on in it.

In: the config a folder has kept, perhaps of an earlier release, and the one of now. Out: the names
of the sections that differ. Reads no folder and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyvision_rl.config import Config
from pyvision_rl.registry import parse_options

HOW_MUCH_IS_GRADED: dict[str, Any] = {"max_ungraded_share": True, "judge": {"max_calls"}}
"""Of ``[rewards]``, may differ: a larger budget grades more, not otherwise."""


def other_sections(
    saved: Mapping[str, Any], now: Config, may_differ: Mapping[str, Any]
) -> list[str]:
    """Return the sections that differ; a key that was not there yet had its default.

    Args:
        saved: What was kept, all of it or without ``may_differ``.
        now: The config to go on with.
        may_differ: Section -> True, or the keys in it (pydantic's ``exclude``).

    Raises:
        ConfigError: What was kept is no config of this release.
    """
    before = parse_options(Config, saved, "the config of the folder")
    old, new = (c.model_dump(mode="json", exclude=dict(may_differ)) for c in (before, now))
    return [name for name, section in new.items() if old[name] != section]

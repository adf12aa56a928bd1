"""What every section of a config has in common.

In: keys and values from a file. Out: a frozen object, or an error that names the key.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SCHEMA = 1
"""Version of a run folder's layout, ``run.json`` included; readers refuse newer ones."""


class Section(BaseModel):
    """Base of every section: immutable; unknown keys, infinities and NaNs are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

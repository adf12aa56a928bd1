"""Reinforcement learning for vision models that write Python and look at what it shows.

Public names and nothing else; each is imported when it is first used, so that importing the
package is quick. Start reading at ``types``, then ``rollout``, then ``train.rl``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Config": "config",
    "load_config": "config_file",
    "ConfigError": "errors",
    "PVRLError": "errors",
    "Execution": "types",
    "ExecStatus": "types",
    "Gold": "types",
    "Media": "types",
    "Task": "types",
    "TaskInput": "types",
    "Trajectory": "types",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Return a public name, importing its module now."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)

"""The networks: placeholder expansion, positions and forward passes. Needs torch."""

from typing import Any

from transformers.utils import logging

_logging: Any = logging
# A bar per saved or loaded file would bury the one line per step that people read.
_logging.disable_progress_bar()

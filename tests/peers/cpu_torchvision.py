"""Imported before transformers: lets a torchvision linked with CUDA load beside a CPU torch.

Its ``_meta_registrations`` raises there; the transforms, all that processors use, need it not.
"""

from __future__ import annotations

import sys
import types

_NAME = "torchvision._meta_registrations"
sys.modules.setdefault(_NAME, types.ModuleType(_NAME))

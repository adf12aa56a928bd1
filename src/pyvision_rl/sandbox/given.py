"""Checks of what a sandbox is given: settings for matplotlib, images and videos under names.

In: values from a config or from an episode. Out: nothing, or an error that names the value.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyvision_rl.errors import ConfigError, SandboxError
from pyvision_rl.registry import suggestion
from pyvision_rl.types import Media


def check_figure(figure: Mapping[str, Any], where: str) -> None:
    """Check that matplotlib takes the rcParams, and that they can be sent to the zygote.

    Raises:
        ConfigError: Names the key, the value and what is wrong with it.
    """
    if not figure:
        return
    # Loaded here: without rcParams the driver has no use for matplotlib.
    from matplotlib import RcParams, rcParamsDefault

    for key, value in figure.items():
        if key.startswith("backend"):
            raise ConfigError(f"{where}.{key}: the sandbox brings its own backend")
        try:
            RcParams({key: value})
            json.dumps(value, allow_nan=False)
        except KeyError as error:
            near = suggestion(key, rcParamsDefault)
            raise ConfigError(f"{where}.{key} is not a matplotlib rcParam{near}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}.{key} = {value!r}: {error}") from error


def check_binding(name: str, media: object) -> None:
    """Check that a session can hold an image or a video under a name.

    Raises:
        SandboxError: The name is no identifier, or the value is no image with its pixels and no
            video with its file.
    """
    if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
        raise SandboxError(f"binding {name!r} is no Python identifier")
    if type(media) is not Media:
        raise SandboxError(f"binding {name!r} is a {type(media).__name__}, wants a Media")
    if media.kind == "video":
        if not isinstance(media.source, Path):
            raise SandboxError(f"binding {name!r} is a video without a file")
        return
    if media.source is None:
        raise SandboxError(f"binding {name!r} has no source to take its pixels from")
    if isinstance(media.source, bytes):
        want = 3 * media.width * media.height
        if len(media.source) != want:
            found = len(media.source)
            raise SandboxError(f"binding {name!r} has {found} bytes of pixels, wants {want}")

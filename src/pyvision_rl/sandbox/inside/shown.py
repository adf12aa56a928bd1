"""Arrays that know which frames of a bound video they show.

In: frames from the reader. Out: an ndarray subclass that acts as any array does. A view shows the
frames that its memory covers; what numpy makes of several arrays shows all of theirs, frame by
frame along the first axis where that can be told; what it turns into a plain array knows nothing.
All of this is open to model code and decides nothing. Loaded by the child only; imports nothing of
ours.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A copy for this file's functions: model code may change or empty the original.
__builtins__ = dict(vars(builtins))  # type: ignore[assignment]

MAX_PIECES = 2**14
"""Pieces of one array that are told apart."""
_BLANK = {"zeros_like", "ones_like", "empty_like", "full_like"}
"""Functions whose results only have the form of what they are given."""
_MIXING = {"roll", "sort", "partition", "take_along_axis", "cumsum", "cumprod"}
"""Functions whose results have that form, and what was in one part in another."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Memory that shows frames: equal pieces, one after another."""

    name: str
    """Of the binding."""
    pieces: tuple[tuple[int, ...], ...]
    """The frames that each shows, ascending."""
    start: int
    """Address."""
    size: int
    """Bytes of a piece."""


class Frames(np.ndarray[Any, Any]):
    """Pixels of frames: [H, W, 3] of one or [K, H, W, 3] of several."""

    _block: _Block | None

    def asnumpy(self) -> Frames:
        """Return itself: it is an array already."""
        return self

    def __array_finalize__(self, made_from: Any) -> None:
        block = getattr(made_from, "_block", None)
        self._block = block
        if block is not None and not _within(self, block):
            self._block = _derived(self, [made_from])

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        plain = super().__array_function__(func, types, args, kwargs)
        if not isinstance(plain, np.ndarray):
            return plain
        if func.__name__ in _BLANK:
            return np.array(plain)
        if func.__name__ in _MIXING:
            return tagged(plain, _arrays((args, kwargs)), mixed=True)
        if isinstance(plain, Frames) and plain._block and _within(plain, plain._block):
            return plain  # a view
        return tagged(plain, _arrays((args, kwargs)))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        kwargs = {k: tuple(map(_plain, v)) if k == "out" else _plain(v) for k, v in kwargs.items()}
        made = getattr(ufunc, method)(*map(_plain, inputs), **kwargs)
        if out is not None and len(out) == 1:
            return out[0]
        return tagged(made, _arrays(inputs)) if isinstance(made, np.ndarray) else made

    def take(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ndarray's returns; it may show any of the frames."""
        made = _plain(self).take(*args, **kwargs)
        return tagged(made, [self], mixed=True) if isinstance(made, np.ndarray) else made

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        first = index[0] if isinstance(index, tuple) and index else index
        if isinstance(part, Frames) and isinstance(first, (list, np.ndarray)) and self.ndim:
            picked = np.arange(self.shape[0])[np.asarray(first)] if np.ndim(first) == 1 else ()
            if part.ndim and len(picked) == part.shape[0] and part.flags.c_contiguous:
                part._block = _piecewise(part, [self.view()[int(i)] for i in picked])
        return part


def frames_of(value: object) -> tuple[str, tuple[int, ...]] | None:
    """Return the binding and the frames, ascending, that an array shows; None if not known."""
    block = _block_of(value)
    seen = _covered(value, block) if block is not None and _within(value, block) else ()
    return (block.name, tuple(sorted(seen))) if block is not None and seen else None


def shows(pixels: np.ndarray[Any, Any], name: str, numbers: Sequence[int]) -> Frames:
    """Return the array as one that shows the frame, or along its first axis the frames."""
    made = pixels.view(Frames)
    made._block = _block(made, name, tuple((int(number),) for number in numbers))
    return made


def tagged(made: Any, sources: Iterable[Any], *, mixed: bool = False) -> Any:
    """Return what was made of some arrays as one that shows their frames; ``mixed``: anywhere."""
    found = [source for source in sources if frames_of(source) is not None]
    if not found:
        return np.array(made) if isinstance(made, Frames) else made
    result = made.view(Frames)
    result._block = _derived(result, found, mixed=mixed)
    return result


def carrying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let what a function makes of frames show them."""

    def carried(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        return tagged(made, _arrays((args, kwargs))) if type(made) is np.ndarray else made

    carried.__name__, carried.__doc__ = function.__name__, function.__doc__
    return carried


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Frames) else value


def _arrays(value: Any) -> list[Any]:
    """The arrays among arguments, those in lists too."""
    if isinstance(value, Frames):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return [found for item in value[:MAX_PIECES] for found in _arrays(item)]
    return []


def _block_of(value: object) -> _Block | None:
    """What is known of an array, or of the one that it is a view of."""
    array = value
    while isinstance(array, np.ndarray):
        block: _Block | None = getattr(array, "_block", None)
        if block is not None:
            return block
        array = array.base
    return None


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def _within(array: Any, block: _Block) -> bool:
    return 0 <= _address(array) - block.start < max(block.size * len(block.pieces), 1)


def _block(array: Any, name: str, pieces: tuple[tuple[int, ...], ...]) -> _Block | None:
    """The block of an array of its own whose memory is these pieces, in order."""
    if not pieces or not array.size:
        return None
    return _Block(name, pieces, _address(array), array.nbytes // len(pieces))


def _derived(made: Any, sources: list[Any], *, mixed: bool = False) -> _Block | None:
    """The block of an array that was made of others; None when they are of several videos."""
    known = [frames_of(source) for source in sources]
    names = {found[0] for found in known if found is not None}
    if len(names) != 1:
        return None
    union = tuple(sorted({n for found in known if found is not None for n in found[1]}))
    if len(union) > 1 and made.flags.c_contiguous and made.ndim and not mixed:
        pieces = _pieces(made, sources)
        if pieces:
            return _piecewise(made, pieces)
    if not made.flags.forc:
        ends = [(n - 1) * step for n, step in zip(made.shape, made.strides, strict=True)]
        low, high = (sum(most(end, 0) for end in ends) for most in (min, max))
        return _Block(names.pop(), (union,), _address(made) + low, high - low + made.itemsize)
    return _block(made, names.pop(), (union,))


def _pieces(made: Any, sources: list[Any]) -> list[Any]:
    """The parts of the sources, one for each equal part of what was made of them; or none.

    A result of the form of its only source has the same parts; one that is the sources one after
    another has theirs.
    """
    views = [source.view() for source in sources]
    if len(views) == 1 and made.ndim > 1:
        [source] = views
        block, depth = _block_of(source), 0
        for axis in range(min(made.ndim, source.ndim) - 2):
            if made.shape[axis] != source.shape[axis]:
                break
            # Within a piece are no other frames: its rows are not told apart.
            if block and abs(source.strides[axis]) * (source.shape[axis] - 1) >= block.size:
                depth = axis + 1
        count = int(np.prod(made.shape[:depth]))
        if depth and 0 < count <= MAX_PIECES:
            return [source[place] for place in np.ndindex(*made.shape[:depth])]
    if made.shape == (len(views), *views[0].shape):
        return views
    if made.ndim > 3 and made.shape[0] == sum(len(view) for view in views) <= MAX_PIECES:
        return [part for view in views for part in view]
    return []


def _piecewise(made: Any, parts: list[Any]) -> _Block | None:
    known = [frames_of(part) for part in parts]
    names = {found[0] for found in known if found is not None}
    if len(names) != 1 or not parts:
        return None
    return _block(made, names.pop(), tuple(found[1] if found else () for found in known))


def _covered(array: Any, block: _Block) -> set[int]:
    """The frames whose memory an array covers."""
    if not array.size:
        return set()
    starts = [_address(array) - block.start]
    low = high = 0
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        if abs(stride) >= block.size and 1 < length <= MAX_PIECES:
            if len(starts) * length > MAX_PIECES:
                return {number for piece in block.pieces for number in piece}
            starts = [start + k * stride for start in starts for k in range(length)]
        else:
            low, high = low + min(reach, 0), high + max(reach, 0)
    last = len(block.pieces) - 1
    covered: set[int] = set()
    for start in starts:
        first = (start + low) // block.size
        end = (start + high + array.itemsize - 1) // block.size
        covered.update(range(min(max(first, 0), last), min(max(end, 0), last) + 1))
    return {number for place in covered for number in block.pieces[place]}

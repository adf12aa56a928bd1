"""Image sizes, token counts and patches are those of transformers' own processor."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pyvision_rl.errors import ConfigError, RenderError, TaskError
from pyvision_rl.images import (
    VisionSpec,
    grid,
    num_tokens,
    patches,
    smart_resize,
    tokens_of_size,
    too_long,
)
from pyvision_rl.media import image_media
from pyvision_rl.types import Media
from tests.fakes import a_video

QWEN2_5_VL = VisionSpec()
QWEN3_VL = VisionSpec(
    patch_size=16,
    min_pixels=65_536,
    max_pixels=16_777_216,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
TINY = VisionSpec(min_pixels=784, max_pixels=12_544)
SPECS = {
    "tiny": TINY,
    "qwen2.5": replace(QWEN2_5_VL, max_pixels=100_000),
    "qwen3": replace(QWEN3_VL, max_pixels=150_000),
    "three frames": VisionSpec(patch_size=8, merge_size=4, temporal_patch_size=3),
}


def processor(spec: VisionSpec) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=spec.patch_size,
        merge_size=spec.merge_size,
        temporal_patch_size=spec.temporal_patch_size,
        size={"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels},
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )


def picture(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_grid_and_patches_are_bit_equal_to_transformers(spec: VisionSpec) -> None:
    rng = random.Random(7)
    sizes = [(448, 448), (56, 56), (112, 112), (1, 1), (3, 300), (28, 29), (640, 480)]
    sizes += [(rng.randint(5, 500), rng.randint(5, 500)) for _ in range(12)]
    for seed, (width, height) in enumerate(sizes):
        image = picture(width, height, seed)
        theirs = processor(spec)(images=[image], return_tensors="np")
        media = image_media(image)
        assert grid(media, spec) == tuple(theirs["image_grid_thw"][0])
        ours = patches(media, spec)
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs["pixel_values"]), (width, height)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from([VisionSpec(), QWEN3_VL, TINY, VisionSpec(max_pixels=3136)]),
)
def test_token_count_is_transformers_patch_count_over_the_merge(
    width: int, height: int, spec: VisionSpec
) -> None:
    media = Media("image", "0" * 64, width, height)
    if too_long(width, height):
        with pytest.raises(RenderError, match="factor of 200"):
            num_tokens(media, spec)
        return
    theirs = processor(spec).get_number_of_image_patches(height, width)
    assert num_tokens(media, spec) * spec.merge_size**2 == theirs


def test_token_counts_worked_by_hand() -> None:
    # 448 x 448 at most 12544 = 112 * 112 pixels: 8 x 8 patches of 14, 4 x 4 tokens.
    assert num_tokens(Media("image", "0", 448, 448), TINY) == 16
    # 56 x 56 needs no scaling: 4 x 4 patches, 2 x 2 tokens.
    assert num_tokens(Media("image", "0", 56, 56), TINY) == 4
    # matplotlib's 640 x 480: 480 / 28 = 17.1 -> 17, 640 / 28 = 22.9 -> 23; 17 * 23 = 391.
    assert num_tokens(Media("image", "0", 640, 480), QWEN2_5_VL) == 391


def test_tokens_of_a_frame_need_its_size_alone() -> None:
    assert tokens_of_size(640, 480, QWEN2_5_VL) == 391
    # At most 100,352 = 128 * 28 * 28 pixels: 480 / sqrt(640 * 480 / 100352) = 274.3 -> 9 rows,
    # 365.8 -> 13 columns.
    assert tokens_of_size(640, 480, VisionSpec(max_pixels=100_352)) == 9 * 13
    # At least 256 * 28 * 28 pixels: 100 * sqrt(200704 / 10000) = 448 = 16 * 28.
    assert tokens_of_size(100, 100, VisionSpec(min_pixels=200_704)) == 16 * 16


def test_patches_of_merged_tokens_are_neighbours() -> None:
    # Patch (row, column) has the grey value 4 * row + column.
    values = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(14, 0).repeat(14, 1)
    media = image_media(Image.fromarray(values).convert("RGB"))
    spec = replace(TINY, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    first = np.rint(patches(media, spec)[:, 0])
    assert first.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_too_long_begins_where_transformers_refuses() -> None:
    assert not too_long(2000, 10)
    assert too_long(10, 2001)
    # 10 rows round to none, so it grows by sqrt(3136 / 20000) = .396: 3.96 -> 28, 792 -> 812.
    assert smart_resize(10, 2000, 28, 3136, 10**6) == (28, 812)
    with pytest.raises(RenderError):
        smart_resize(10, 2001, 28, 3136, 10**6)
    with pytest.raises(RenderError):
        smart_resize(0, 5, 28, 3136, 10**6)


def test_a_video_and_an_absent_image_are_refused() -> None:
    with pytest.raises(RenderError, match="is a video"):
        grid(a_video(), TINY)
    with pytest.raises(TaskError):
        patches(Media("image", "0", 56, 56), TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 0},
        {"merge_size": -1},
        {"min_pixels": 0},
        {"min_pixels": 100, "max_pixels": 99},
        {"std": (0.5, 0.0, 0.5)},
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(change)).split("_")[0]):
        VisionSpec(**change)  # type: ignore[arg-type]

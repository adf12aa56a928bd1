"""One network for sampler and learner, equal to what transformers computes by itself."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pyvision_rl.errors import ConfigError, RenderError
from pyvision_rl.images import grid, num_tokens
from pyvision_rl.integrations.verl.tokens import Pads
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.load import load_model
from pyvision_rl.policy.vllm_prompt import PromptWriter
from pyvision_rl.sizes.architecture import read_folder
from pyvision_rl.train.reference import load_reference
from pyvision_rl.types import Media, Segment
from tests.tiny_models import FAMILIES, make_tiny, noise


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return make_tiny(tmp_path_factory.mktemp("tiny"), request.param)[0]


def episode(model: VisionLanguageModel) -> list[Segment]:
    """Two images of different shapes in the prompt, one in an observation."""
    pad = model.image_token_id
    return [
        Segment((20, pad, 21, 22, pad, 23), False, media=(noise(1, 112, 112), noise(2, 140, 56))),
        Segment((30, 31, 32), True, (-1.0, -2.0, -3.0)),
        Segment((24, 25, pad, 26), False, media=(noise(3, 56, 84),)),
        Segment((33, 34), True, (-4.0, -5.0)),
    ]


def transformers_inputs(model: VisionLanguageModel, segments: list[Segment]):
    expanded = model.expand(segments)
    ids = torch.tensor([expanded.token_ids])
    kinds = (ids == model.image_token_id).int()
    media = [m for s in segments for m in s.media]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": kinds,
        "pixel_values": torch.from_numpy(np.concatenate([model._pixels(m) for m in media])),
        "image_grid_thw": torch.tensor([grid(m, model.vision) for m in media]),
    }


def test_positions_are_those_of_transformers(model: VisionLanguageModel) -> None:
    inputs = transformers_inputs(model, episode(model))
    want, _ = model.module.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(torch.from_numpy(model.expand(episode(model)).positions), want[:, 0])


@torch.no_grad()
def test_forward_equals_transformers_own(model: VisionLanguageModel) -> None:
    segments = episode(model)
    want = model.module(**transformers_inputs(model, segments)).logits[0].float()
    expanded = model.expand(segments)
    embedded = model.embed(
        torch.tensor([expanded.token_ids]), [(0, offset, m) for offset, m in expanded.images]
    )
    hidden = model.hidden(embedded, torch.from_numpy(expanded.positions)[:, None])
    got = model.logits(hidden)[0]
    assert torch.isneginf(got[:, list(model.banned_ids)]).all()
    finite = torch.isfinite(got)
    assert (got[finite] - want[finite]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_beyond_the_tokenizer_are_banned(tmp_path: Path, family: str) -> None:
    model, tokenizer = make_tiny(tmp_path, family)
    width = model.module.config.get_text_config().vocab_size
    padding = set(range(len(tokenizer), width))
    media = {model.image_token_id, model.module.config.video_token_id}
    assert padding
    assert set(model.banned_ids) == padding | media
    logits = model.logits(torch.randn(3, model.module.config.get_text_config().hidden_size))
    banned = torch.isneginf(logits).all(0).nonzero()[:, 0].tolist()
    assert banned == list(model.banned_ids)
    for file in (*tmp_path.glob("*token*"), *tmp_path.glob("chat_template*")):
        file.unlink()
    assert set(load_model(str(tmp_path), device="cpu").banned_ids) == media


@torch.no_grad()
def test_an_image_is_encoded_once_however_often_it_is_shown(model: VisionLanguageModel) -> None:
    media = noise(1, 112, 112)
    pads = num_tokens(media, model.vision)
    ids = torch.full((3, pads), model.image_token_id)
    seen: list[int] = []
    hook = model.module.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    embedded = model.embed(ids, [(row, 0, media) for row in range(3)])
    hook.remove()
    assert seen == [1]
    assert torch.equal(embedded.inputs[0], embedded.inputs[2])


def test_expansion_counts_mask_and_logprobs(model: VisionLanguageModel) -> None:
    segments = episode(model)
    expanded = model.expand(segments)
    extra = sum(num_tokens(m, model.vision) - 1 for s in segments for m in s.media)
    assert len(expanded.token_ids) == sum(len(s.token_ids) for s in segments) + extra
    assert expanded.logprobs[expanded.sampled].tolist() == [-1, -2, -3, -4, -5]
    assert expanded.next_position == expanded.positions.max() + 1


def test_a_sampled_placeholder_is_a_token_like_any_other(model: VisionLanguageModel) -> None:
    expanded = model.expand([Segment((model.image_token_id,), True, (-1.0,))])
    assert expanded.token_ids == (model.image_token_id,)
    assert expanded.images == ()


@pytest.mark.parametrize("media", [0, 2])
def test_images_and_placeholders_must_match(model: VisionLanguageModel, media: int) -> None:
    segment = Segment((model.image_token_id,), False, media=(noise(1, 28, 28),) * media)
    pads = Pads(model.image_token_id, model.vision)
    for expand in (model.expand, pads.expand):
        with pytest.raises(RenderError, match=f"1 image placeholders and {media} images"):
            expand([segment])


def test_everybody_who_expands_gets_the_ids_of_the_network(model: VisionLanguageModel) -> None:
    segments = episode(model)
    expanded = model.expand(segments)
    asked = asyncio.run(PromptWriter(model.image_token_id, model.vision).write(segments))
    assert asked.expanded == expanded.token_ids
    assert [first for first, _ in asked.spans] == [first for first, _ in expanded.images]
    assert tuple(Pads(model.image_token_id, model.vision).expand(segments)) == expanded.token_ids


_pieces = st.lists(
    st.tuples(st.lists(st.integers(20, 29), max_size=4), st.booleans(), st.booleans()), max_size=5
)


@settings(deadline=None, max_examples=40)
@for_all(_pieces)
def test_expanding_in_pieces_equals_expanding_at_once(pieces) -> None:
    model = _any_model()
    segments = [_segment(model, *piece) for piece in pieces]
    whole = model.expand(segments)
    ids, columns, position = [], [np.zeros((3, 0), np.int64)], 0
    for segment in segments:
        part = model.expand([segment], position)
        ids += part.token_ids
        columns.append(part.positions)
        position = part.next_position
    assert tuple(ids) == whole.token_ids
    assert np.array_equal(np.concatenate(columns, axis=1), whole.positions)
    assert position == whole.next_position


_SHARED: dict[str, VisionLanguageModel] = {}


def _any_model() -> VisionLanguageModel:
    if not _SHARED:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            _SHARED["model"] = make_tiny(Path(folder), FAMILIES[0])[0]
    return _SHARED["model"]


def _segment(model: VisionLanguageModel, ids: list[int], sampled: bool, image: bool) -> Segment:
    if sampled:
        return Segment(tuple(ids), True, (-1.0,) * len(ids))
    media: tuple[Media, ...] = (noise(1, 84, 56),) if image else ()
    return Segment((*ids, *([model.image_token_id] if image else [])), False, media=media)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match=r"is a 'llama' model; supported families: qwen2_5_vl"):
        load_model(str(tmp_path))


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ConfigError, match="'/nowhere/at/all' is not there") as absolute:
        load_model("/nowhere/at/all")
    assert "relative" not in str(absolute.value)


def test_a_missing_folder_is_not_taken_for_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = re.escape(str(tmp_path))
    with pytest.raises(ConfigError, match=f"'runs/tiny/model' is not there in {where}.*new-model"):
        load_model("runs/tiny/model")
    with pytest.raises(ConfigError, match=r"'\./model' is not there"):
        load_model("./model")
    with pytest.raises(ConfigError, match=r"'~/models/it' .* ~ is not expanded"):
        load_model("~/models/it")


def test_weights_that_cannot_be_read_are_named_by_their_key(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"policy\.model = .* cannot be loaded"):
        load_model(str(tmp_path))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"policy\.model = .* cannot be loaded"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(
    tmp_path: Path, family: str
) -> None:
    model, _ = make_tiny(tmp_path, family)
    load_model(str(tmp_path))
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    lost = next(name for name in sorted(tensors) if "visual" in name)
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"policy\.model = .* lack 1 tensors, .*visual"):
        load_model(str(tmp_path))
    with pytest.raises(ConfigError, match=r"train\.kl_reference = .* lack 1 tensors, .*visual"):
        load_reference(str(tmp_path), model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="platform: there is a GPU")
def test_a_device_that_is_not_here_is_named_by_its_key(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    with pytest.raises(ConfigError, match=r"policy\.device = 'cuda'"):
        load_model(str(tmp_path), device="cuda")


def test_limits_that_contradict_name_the_keys_and_the_model(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    with pytest.raises(ConfigError, match=r"policy\.max_pixels = 10: 784 is above 10") as caught:
        load_model(str(tmp_path), max_pixels=10)
    assert "policy.min_pixels = None" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def as_version_5_saves(folder: Path) -> dict[str, Any]:
    """Move what is said of images to where transformers 5 saves it; return it."""
    file = folder / "preprocessor_config.json"
    rules: dict[str, Any] = json.loads(file.read_text())
    file.unlink()
    whole = {"processor_class": "Qwen2_5_VLProcessor", "image_processor": rules}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    return rules


def test_a_processor_saved_by_transformers_5_is_read_as_before(tmp_path: Path) -> None:
    before = make_tiny(tmp_path)[0].vision
    sized = read_folder(tmp_path).spec
    rules = as_version_5_saves(tmp_path)
    assert load_model(str(tmp_path), device="cpu").vision == before
    assert read_folder(tmp_path).spec == sized
    assert (sized.min_pixels, sized.max_pixels) == (before.min_pixels, before.max_pixels)
    # Where both are, transformers reads the section.
    rules["size"] = {"shortest_edge": 1, "longest_edge": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(rules))
    assert load_model(str(tmp_path), device="cpu").vision == before
    assert read_folder(tmp_path).spec == sized


def test_what_a_processor_does_not_say_is_not_guessed(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    rules = json.loads(file.read_text())
    for key in ("image_mean", "size", "max_pixels", "min_pixels"):
        rules.pop(key, None)
    file.write_text(json.dumps(rules))
    says = r"does not say image_mean, size\.shortest_edge, size\.longest_edge"
    with pytest.raises(ConfigError, match=says):
        load_model(str(tmp_path))
    file.write_text(json.dumps(rules | {"image_mean": [0.5, 0.5, 0.5]}))
    limits = {"min_pixels": 784, "max_pixels": 7840}
    assert load_model(str(tmp_path), **limits).vision.max_pixels == 7840


def test_a_model_without_a_processor_is_refused_by_its_key(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"policy\.model = .* has no image processor"):
        load_model(str(tmp_path), device="cpu")

"""A new model is an ordinary Hugging Face directory whose tokenizer knows its tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvision_rl.config import Config
from pyvision_rl.errors import ConfigError
from pyvision_rl.new_model import corpus, new_model

SMALL = {
    "hidden_size": 64,
    "num_layers": 2,
    "intermediate_size": 64,
    "vision": {"hidden_size": 32, "intermediate_size": 32},
    "corpus_tasks": [{"name": "tests.fakes:Colours"}],
}


def config(**changes: object) -> Config:
    return Config.model_validate(
        {"prompts": {"template": "minimal"}, "new_model": {**SMALL, **changes}}
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_transformers_loads_it_and_our_renderer_accepts_it(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    from pyvision_rl.models.load import load_model
    from pyvision_rl.rendering import load_renderer

    count = new_model(config(family=family), tmp_path / "m")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "m")
    assert loaded.config.model_type == family
    assert sum(p.numel() for p in loaded.parameters()) == count
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template
    model = load_model(str(tmp_path / "m"), device="cpu")
    renderer = load_renderer(str(tmp_path / "m"), model.vision)
    script = "<code>\n```python\nplt.imshow(image_clue_0)\nplt.show()\n```\n</code>"
    assert renderer.decode(renderer.encode(script)) == script
    assert len(renderer.encode(script)) <= 12, "words of the tasks are whole tokens"


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        new_model(config(), tmp_path / name)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()


def test_the_corpus_holds_prompts_scripts_and_observations() -> None:
    text = "".join(corpus(config()))
    for piece in ("Which digit?", "<image_clue_0>", "plt.show()", "\\boxed{red}", "Image Result:"):
        assert piece in text


def test_a_corpus_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    for name in ("gone.txt", "latin.txt"):
        file = str(tmp_path / name)
        with pytest.raises(ConfigError, match=rf"new_model\.corpus_files: .*{name}"):
            list(corpus(config(corpus_files=[file])))


def test_a_folder_in_use_and_an_empty_corpus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        new_model(config(), tmp_path)
    with pytest.raises(ConfigError, match="no text"):
        new_model(config(corpus_tasks=[]), tmp_path / "m")


def test_the_initial_spread_of_weights_is_the_configured_one(tmp_path: Path) -> None:
    from pyvision_rl.models.load import load_model

    new_model(config(initializer_range=0.08), tmp_path / "m")
    module = load_model(str(tmp_path / "m"), device="cpu").module
    spread = module.model.language_model.embed_tokens.weight.std().item()
    assert spread == pytest.approx(0.08, rel=0.05)
    vision = module.model.visual.blocks[0].attn.qkv.weight.std().item()
    assert vision == pytest.approx(0.08, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 66}, "new_model.hidden_size = 66 is no multiple of 2 times new_model.num"),
        (
            {"num_heads": 16},
            "new_model.hidden_size = 64 gives each of the new_model.num_heads = 16",
        ),
        (
            {"num_kv_heads": 3},
            "new_model.num_heads = 4 is no multiple of new_model.num_kv_heads = 3",
        ),
        ({"vision": {"hidden_size": 36}}, "new_model.vision.hidden_size = 36 is no multiple of 4"),
        ({"vision": {"max_pixels": 100}}, "new_model.vision.min_pixels = 784 is above"),
    ],
)
def test_sizes_that_make_no_network_are_refused(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        new_model(config(**changes), tmp_path / "m")


def test_the_smallest_sizes_that_pass_run(tmp_path: Path) -> None:
    from pyvision_rl.models.load import load_model

    sizes = {"hidden_size": 32, "vision": {"hidden_size": 8, "intermediate_size": 32}}
    new_model(config(**sizes), tmp_path / "m")
    assert load_model(str(tmp_path / "m"), device="cpu").vision.min_pixels == 784

"""What the fake vLLM server serves in tests: a tiny real network, or what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pyvision_rl.images import num_tokens
from pyvision_rl.media import image_media
from pyvision_rl.models.adapters import add_adapters, load_adapters
from pyvision_rl.models.base import VisionLanguageModel
from pyvision_rl.models.load import load_model, load_network
from pyvision_rl.sizes.parameters import LORA_MAPS
from pyvision_rl.types import Media, Segment


def picture(file: bytes) -> Media:
    return image_media(Image.open(BytesIO(file)))


def width_of(module: Any) -> int:
    return int(module.config.get_text_config().vocab_size)


class TinyEngine:
    """The network of a folder, in float32; every row of logits comes from one whole forward."""

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._models = {"": load_model(str(folder), device="cpu")}
        self.model.module.requires_grad_(False)
        self.vocab_size = width_of(self.model.module)
        self.image_token_id = self.model.image_token_id

    @property
    def model(self) -> VisionLanguageModel:
        return self._models[""]

    def num_pads(self, image: bytes) -> int:
        return num_tokens(picture(image), self.model.vision)

    @torch.no_grad()
    def logits(
        self, token_ids: Sequence[int], images: Sequence[bytes], adapter: str
    ) -> list[list[float]]:
        model = self._models[adapter]
        media = tuple(map(picture, images))
        expanded = model.expand([Segment(tuple(token_ids), sampled=False, media=media)])
        ids = torch.tensor([expanded.token_ids])
        embedded = model.embed(ids, [(0, at, each) for at, each in expanded.images])
        hidden = model.hidden(embedded, torch.from_numpy(expanded.positions)[:, None])
        module: Any = model.module
        rows: list[list[float]] = module.get_output_embeddings()(hidden[0]).tolist()
        return rows

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def reload(self, path: str, take: Callable[[int], bool]) -> None:
        new = load_network(path, torch.float32).state_dict()
        mine = self.model.module.state_dict()
        for number, name in enumerate(sorted(mine)):
            if take(number):
                mine[name].copy_(new[name])

    def load_adapter(self, name: str, path: str) -> None:
        config = json.loads((Path(path) / "adapter_config.json").read_text())
        model = load_model(str(self._folder), device="cpu")
        add_adapters(
            model.module,
            rank=config["r"],
            alpha=config["lora_alpha"],
            targets=LORA_MAPS["all"],
            seed=0,
        )
        load_adapters(model.module, Path(path))
        self._models[name] = model


class WordEngine:
    """Characters are tokens, and the answer is a given text; no network."""

    image_token_id = 300
    vocab_size = 400

    def __init__(self, text: str, prompt_length: int) -> None:
        self._text = text
        self._length = prompt_length

    def num_pads(self, image: bytes) -> int:
        return 4

    def logits(
        self, token_ids: Sequence[int], images: Sequence[bytes], adapter: str
    ) -> list[list[float]]:
        pads = 3 * len(images)
        rows = [[0.0] * self.vocab_size for _ in range(len(token_ids) + pads)]
        written = len(token_ids) - self._length
        rows[-1][ord(self._text[written % len(self._text)])] = 50.0
        return rows

    def encode(self, text: str) -> list[int]:
        return [ord(c) % 256 for c in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def reload(self, path: str, take: Callable[[int], bool]) -> None:
        pass

    def load_adapter(self, name: str, path: str) -> None:
        pass

"""Messages to token ids: the renderer contract and its implementations."""

from pyvision_rl.rendering.chars import CharsRenderer
from pyvision_rl.rendering.qwen_vl import QwenRenderer, load_renderer

__all__ = ["CharsRenderer", "QwenRenderer", "load_renderer"]

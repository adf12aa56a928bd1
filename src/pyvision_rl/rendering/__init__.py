"""Messages to token ids: the renderer contract and its implementation for Qwen models.

``rendering.chars`` is for policies without a tokenizer.
"""

from pyvision_rl.rendering.qwen_vl import QwenRenderer, load_renderer

__all__ = ["QwenRenderer", "load_renderer"]

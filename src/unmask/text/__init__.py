"""Text in and out: tokenizers, chat templates, streamed text with stop strings.

Knows nothing of models, requests or HTTP, and never imports a tensor library.
"""

from unmask.text.stream import StopHit, TextStream
from unmask.text.template import CHATML, ChatTemplate, render_chat
from unmask.text.tokenizer import Tokenizer

__all__ = ["CHATML", "ChatTemplate", "StopHit", "TextStream", "Tokenizer", "render_chat"]

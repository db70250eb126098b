"""Twenty prompts of three kinds (code and text to continue, chats to answer), and what each mode writes after them."""

from __future__ import annotations

from typing import Any

from unmask import LM
from unmask.types import Ids

PLAIN = [
    "def fibonacci(n):\n    ",
    "import os\nimport sys\n\ndef main(arguments):\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "for i in range(10):\n    print(",
    "SELECT name, age FROM people WHERE",
    "# A list of prime numbers below one hundred\nprimes = [2, 3,",
    "The capital of France is",
    "Once upon a time there was a small village by the sea, where",
    "Water boils at one hundred degrees because",
    "The three most important rules of writing are:\n\n1.",
    "To be, or not to be,",
    "1, 1, 2, 3, 5, 8, 13,",
]
CHATS = [
    "Write a Python function that reverses a list.",
    "What is the difference between a list and a tuple?",
    "Explain photosynthesis to a child.",
    "Give me three names for a cat.",
    "How do I boil an egg?",
    "Write a short poem about rain.",
    "What is 12 times 12?",
    "Translate 'good morning' into Spanish.",
]


def prompts(lm: LM) -> list[Ids]:
    """The ids of all twenty."""
    return [lm.encode(text) for text in PLAIN] + [lm.encode_chat([{"role": "user", "content": text}]) for text in CHATS]


TOKENS = 64
# Small drafts: this test is about equality, and rows cost time.
WAYS: dict[str, dict[str, Any]] = {
    "linearspec": {"mode": "self-speculation", "spec_variant": "linearspec", "draft_block_size": 4},
    "quadspec": {"mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": 3},
    "adaptivespec": {"mode": "self-speculation", "spec_variant": "adaptivespec", "draft_block_size": 8},
}


def written(lm: LM, **options: Any) -> list[Ids]:
    found = lm.generate_all(prompts(lm), max_tokens=TOKENS, **options)
    lm.engine.check()
    assert lm.engine.pages.in_use == 0
    return [generation.token_ids for generation in found]

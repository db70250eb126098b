"""The Python surface: load a model by name, generate and chat in any mode, stream what happens."""

from unmask.lm.fill import Filled
from unmask.lm.filling import LAYOUTS, Filling
from unmask.lm.lm import LM
from unmask.lm.options import MODES, SPEC_VARIANTS, Options, options_of
from unmask.lm.result import Event, Generation, Numbers, Piece
from unmask.lm.trace import Trace

__all__ = [
    "LAYOUTS",
    "LM",
    "MODES",
    "SPEC_VARIANTS",
    "Event",
    "Filled",
    "Filling",
    "Generation",
    "Numbers",
    "Options",
    "Piece",
    "Trace",
    "options_of",
]

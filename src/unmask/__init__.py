"""Convert, run and serve tri-mode diffusion language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.constraints.oracles import ConstraintOracle
    from unmask.lm import LM

__all__ = ["LM", "ConstraintOracle", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "LM":  # torch takes a second to import: only for those who use it
        from unmask.lm import LM

        return LM
    if name == "ConstraintOracle":
        from unmask.constraints.oracles import ConstraintOracle

        return ConstraintOracle
    raise AttributeError(f"module 'unmask' has no attribute {name!r}")

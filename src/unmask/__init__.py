"""unmask: convert, run and serve tri-mode diffusion language models."""

__version__ = "0.1.0"

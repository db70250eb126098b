"""Turning an autoregressive model into a tri-mode diffusion model: data, noise, loss, loop, export."""

from unmask.training.article import build_block_wise_attention_mask, position_dependent_mask_rate

__all__ = ["build_block_wise_attention_mask", "position_dependent_mask_rate"]

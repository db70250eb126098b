#!/bin/sh
# All weights of SmolLM2-135M: 12000 steps of 65536 tokens, 0.8 billion in all, for one GPU of 24 GB or more.
# FineWeb-Edu is streamed from the Hugging Face hub (extra `train`); held-out figures are of WikiText-103.
# Usage: runs/smollm2_joint.sh [more flags]. Afterwards: unmask eval smollm2-joint --against smollm2-135m
set -eu
exec unmask convert "${MODEL:-smollm2-135m}" --recipe joint --tensorboard \
    --data "${DATA:-hf:HuggingFaceFW/fineweb-edu:sample-10BT}" \
    --held-out "${HELD_OUT:-hf:Salesforce/wikitext:wikitext-103-raw-v1:validation}" \
    --out "${OUT:-smollm2-joint}" "$@"

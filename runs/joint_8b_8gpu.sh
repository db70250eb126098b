#!/bin/sh
# All weights of an 8B model on 8 GPUs of 80 GB, sharded (FSDP2): 12500 steps of 2.1 million tokens, 26 billion in all,
# as in stage 2 of Nemotron-Labs-Diffusion (arXiv 2607.05722). Id 100 is a reserved token that no text holds.
# Usage: runs/joint_8b_8gpu.sh [more flags]. On more machines, give torchrun's --nnodes and --rdzv-endpoint as well.
set -eu
exec torchrun --nproc-per-node 8 -m unmask convert "${MODEL:-mistralai/Ministral-3-8B-Base-2512}" \
    --recipe joint-8b --mask-id "${MASK_ID:-100}" --tensorboard \
    --data "${DATA:-hf:HuggingFaceFW/fineweb-edu:sample-100BT}" \
    --held-out "${HELD_OUT:-hf:Salesforce/wikitext:wikitext-103-raw-v1:validation}" \
    --out "${OUT:-ministral-8b-joint}" "$@"

#!/bin/sh
# SmolLM2-135M as it is, bit for bit, and an adapter that drafts and denoises: two hours on two CPU cores, 25 MB.
# The data is the starter corpus, made on first use from sources that packages ship. Run it again to go on.
# Usage: runs/smollm2_adapter.sh [more flags]. Afterwards: unmask eval smollm2-135m --adapter smollm2-adapter
set -eu
exec unmask convert "${MODEL:-smollm2-135m}" --recipe adapter --minutes "${MINUTES:-120}" \
    --data "${DATA:-starter}" --out "${OUT:-smollm2-adapter}" "$@"

#!/bin/sh
# Seconds on any machine: a conversion from end to end, to see that one works. Twenty steps teach a model nothing.
# Usage: runs/tiny.sh [more flags of `unmask convert`]; MODEL, DATA and OUT choose something else.
set -eu
exec unmask convert "${MODEL:-smollm2-135m}" --recipe tiny --data "${DATA:-docs}" --out "${OUT:-tiny-adapter}" "$@"

#!/usr/bin/env bash
# Our ViT-B beside PyTorch's on one GPU, inference and training, batches of 64, 256 and 512.
#
#   OUT=results tools/bench_gpu.sh [WHEELS [options of tools/bench_peers.py]]
#
# Takes nothing from the network. Needs a Python with jax for CUDA (0.11.1 or later) and torch;
# what else is missing is installed, for this run alone, from the folder WHEELS (default: .whl). On
# a machine with a network it is filled by
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d .whl \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#     flax==0.12.12 optax==0.2.8 jaxtyping==0.3.11 wadler-lindig absl-py msgpack rich \
#     markdown-it-py mdurl pygments treescope PyYAML typing_extensions
#
# Writes $OUT/bench_gpu.json and $OUT/bench_gpu.log. DTYPES="bfloat16 float32" measures both;
# PYTHON names the interpreter; BACKEND=cpu tries the script where there is no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-bench_gpu}
wheels=${1:-.whl}
python=${PYTHON:-python3}
backend=${BACKEND:-gpu}
mkdir -p "$out"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G "$wheels/*.whl" > /dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "$wheels"/*.whl
fi
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # two processes share the memory

{
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv || true
  "$python" -c "import jax; found = jax.default_backend(); assert found == '$backend', found"
  "$python" tools/bench_peers.py --kinds infer train --batches 64 256 512 --rounds 15 \
    --seconds 0.5 --dtypes ${DTYPES:-bfloat16} --out "$out/bench_gpu.json" \
    --ours '{"scan_layers": false}' '{"scan_layers": false, "attention": "cudnn"}' '{}' \
    "${@:2}"
} 2>&1 | tee "$out/bench_gpu.log"

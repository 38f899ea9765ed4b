#!/usr/bin/env bash
# Everything that needs a GPU, in at most 8 minutes, on one machine, without network.
#
#   bench/gpu_check.sh              runs it, and writes bench/results/gpu-check-DATE.json (or --json FILE)
#   bench/gpu_check.sh --wheels     says which wheels to bring: it installs nothing
#
# It needs Python 3.11 or newer with a CUDA build of torch, and a checkout. Where something is missing it says what,
# and ends with status 3. PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/transports:$PWD/scheduler:$PWD/adapters:$PWD/bench${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 # nobody is asked for what is not here, and nobody waits for that
exec "${PYTHON:-python3}" -m symbiosis_bench.gpu_check "$@"

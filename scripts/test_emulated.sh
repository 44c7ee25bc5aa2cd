#!/usr/bin/env bash
# Runs the CUDA backend's tests (kernels, models, engine, runs) where there is no GPU: on the CPU, by kernels/emulator. Needs the CUDA toolkit's headers.
#   scripts/test_emulated.sh            all but the longest
#   scripts/test_emulated.sh --full     and those
# Further arguments go to ctest (-R NAME).
set -euo pipefail
cd "$(dirname "$0")/.."
exclude=(-E 'EngineFamilies.ASample.*deepseek_576|EngineCudaTest.LongContexts')
if [ "${1-}" = --full ]; then
  exclude=()
  shift
fi
scripts/setup.sh
build=${BUILD_DIR:-build-emulated}
[ -f "$build/build.ninja" ] || cmake -S . -B "$build" -G Ninja -DGROUPER_CUDA=EMULATED
cmake --build "$build" --target kernels_cuda_test model_test rollout_test trainer_test e2e_test
cd "$build"
[ $# -gt 0 ] || set -- -R 'Cuda|_cuda'
TEST_TMPDIR=$(mktemp -d)  # what tests leave goes with it
export TEST_TMPDIR
chmod 755 "$TEST_TMPDIR"  # sandboxes are another user
trap 'rm -rf "$TEST_TMPDIR"' EXIT
ctest --output-on-failure -j "$(nproc)" "${exclude[@]}" "$@"

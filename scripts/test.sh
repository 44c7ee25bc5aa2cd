#!/usr/bin/env bash
# Installs what is missing, builds, runs the tests and ends with ctest's summary.
#   scripts/test.sh            every test of the CPU path
#   scripts/test.sh --full     and the long ones (200 kills, longer fuzzing)
# Further arguments go to ctest (-R NAME).
set -euo pipefail
cd "$(dirname "$0")/.."
exclude=(-LE long)
if [ "${1-}" = --full ]; then
  exclude=()
  shift
fi
scripts/setup.sh
scripts/build.sh
cd "${BUILD_DIR:-build}"
TEST_TMPDIR=$(mktemp -d)  # what tests leave goes with it
export TEST_TMPDIR
chmod 755 "$TEST_TMPDIR"  # sandboxes are another user
trap 'rm -rf "$TEST_TMPDIR"' EXIT
ctest --output-on-failure -j "$(nproc)" "${exclude[@]}" "$@"

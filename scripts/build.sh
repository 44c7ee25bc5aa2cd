#!/usr/bin/env bash
# Builds into build/ (or $BUILD_DIR; a new one is configured with $GROUPER_CMAKE_ARGS). Arguments go to the build: scripts/build.sh grouper
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD_DIR:-build}
[ -f "$build/build.ninja" ] || cmake -S . -B "$build" -G Ninja ${GROUPER_CMAKE_ARGS-}
exec cmake --build "$build" ${1+--target "$@"}

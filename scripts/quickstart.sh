#!/usr/bin/env bash
# Installs what is missing, builds, and runs recipes/quickstart.textproto into runs/quickstart. Arguments go to `grouper run`, e.g.
#   scripts/quickstart.sh --set seed=2 --out runs/seed2
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/build.sh grouper
out=(--out runs/quickstart)
for argument in "$@"; do
  case $argument in --out | --out=*) out=() ;; esac
done
if [ ${#out[@]} -gt 0 ] && [ -e runs/quickstart ]; then
  # A finished or broken-off earlier run is kept beside the new one.
  mv runs/quickstart "runs/quickstart.$(date +%Y%m%d-%H%M%S)"
fi
exec build/grouper run recipes/quickstart.textproto "${out[@]}" "$@"

#!/usr/bin/env bash
# Runs nvcc (the arguments, compiler first) and fails where ptxas says that it serialised wgmma or ignored setmaxnreg: that is
# information to ptxas, and half the speed to us.
set -uo pipefail
messages=$("$@" 2>&1)
status=$?
[ -z "$messages" ] || printf '%s\n' "$messages" >&2
if [ $status -eq 0 ] && grep -qE 'C75(08|10|12|14|15|16|18)' <<<"$messages"; then
  echo "error: ptxas serialised wgmma or ignored setmaxnreg (above)" >&2
  exit 1
fi
exit $status

#!/usr/bin/env bash
# Fails where a CUDA kernel does not call KernelBegin (kernels/cuda_launch.h): it would read what the kernel before it has not written yet.
# (Whether it does so before anything else is for the reader.) Launches go through LaunchKernel and LaunchClusters.
set -euo pipefail
cd "$(dirname "$0")/.."
awk '
  function check() { if (kernel != "" && !begun) { print kernel ": this kernel does not call KernelBegin()"; failed = 1 } }
  FNR == 1 { check(); kernel = "" }
  /^ *\/\// { next }
  /__global__/ { check(); kernel = FILENAME ":" FNR; begun = 0; kernels++ }
  /KernelBegin\(\);/ { begun = 1 }
  /<<</ { print FILENAME ":" FNR ": a launch beside LaunchKernel"; failed = 1 }
  END { check(); if (kernels == 0) { print "no kernels found"; failed = 1 } else print kernels " kernels"; exit failed }
' kernels/*.cu kernels/*.cuh

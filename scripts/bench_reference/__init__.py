"""What scripts/bench_reference.py runs: cpu (quickstart, smollm2), models (gpu) and kernels (gpu-kernels); report has the clock and the table."""

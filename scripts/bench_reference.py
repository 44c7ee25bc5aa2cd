#!/usr/bin/env python3
"""The same models and shapes in PyTorch, on the same machine, in one run with ours: prints speeds and the ratio.

    python3 -m pip install torch transformers gguf          # references only; grouper itself needs no Python
    scripts/bench_reference.py quickstart [--threads 2]      # the quickstart's MLA/MoE model: training and generation
    scripts/bench_reference.py smollm2 [--threads 2]         # SmolLM2-135M: transformers' generate and a training step
    scripts/bench_reference.py gpu [--only smollm2|v2lite]   # on a GPU: shapes of SmolLM2-135M (generation, training, a GRPO step) and of
                                                             # DeepSeek-V2-Lite (generation, forward and backward)
    scripts/bench_reference.py gpu-kernels [--filter TEXT]   # on a GPU: every line of `grouper bench kernels --filter cuda` beside torch

The modes on a GPU end by themselves within --seconds; what did not fit, or is not installed, is named at the end.
"""
import argparse
import os
import sys

from bench_reference.report import ROOT


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("mode", choices=["quickstart", "smollm2", "gpu", "gpu-kernels"])
    p.add_argument("--threads", type=int, default=2, help="quickstart, smollm2: of both")
    p.add_argument("--rounds", type=int, default=3, help="quickstart, smollm2: each of both")
    p.add_argument("--grouper", default=os.environ.get("GROUPER", os.path.join(ROOT, "build", "grouper")), help="the binary (or $GROUPER)")
    p.add_argument("--smollm2", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.gguf"))
    p.add_argument("--only", choices=["smollm2", "v2lite"], help="gpu: one of the two models")
    p.add_argument("--filter", default="cuda", help="gpu-kernels: as for grouper bench kernels")
    p.add_argument("--seconds", type=float, default=520, help="gpu, gpu-kernels: limit of the whole run")
    p.add_argument("--compile", action="store_true", help="gpu: training with torch.compile too (minutes)")
    p.add_argument("--tiny", action="store_true", help="gpu, gpu-kernels: small shapes on the CPU; tries the script, measures nothing")
    return p.parse_args()


def main():
    args = parse()
    if args.mode in ("quickstart", "smollm2"):
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported
        from bench_reference import cpu
        return cpu.run(args)
    from bench_reference import report
    return report.run(args)


if __name__ == "__main__":
    sys.exit(main())

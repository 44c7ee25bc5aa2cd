#!/usr/bin/env python3
"""GGUF files that `grouper convert` writes, read by the `gguf` package and by llama.cpp: names, types, vocabulary, tokens, perplexity, text.

    python3 scripts/check_gguf.py [--grouper build/grouper] [--model models/SmolLM2-135M-Instruct.gguf]   # needs gguf, llama-cpp-python, numpy

Writes the model in every type. For each: gguf's reader dequantises every tensor; llama.cpp tokenizes, continues a prompt greedily for 32 tokens, and
measures the perplexity of this repository's documentation. Exit code 1 when a token differs from the original file's tokenization, when F32 or F16
continue otherwise, when F32, F16 or BF16 are 1% worse than the original, Q8_0 3%, Q4_0 or Q4_K 30%. BF16 rounds weights to eight bits of precision, so its
greedy text may part from the original's; how far it agrees is printed.
"""
import argparse
import glob
import os
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALLOWED = {"F32": 1.01, "F16": 1.01, "BF16": 1.01, "Q8_0": 1.03, "Q4_0": 1.3, "Q4_K": 1.3}
PROMPT = "<|im_start|>user\nWrite a short story about a fox.<|im_end|>\n<|im_start|>assistant\n"
CONTEXT = 512


def measure(path, text):
    model = llama_cpp.Llama(path, n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, n_threads=2, verbose=False)
    tokens = model.tokenize(text.encode(), add_bos=False, special=True)
    total, count = 0.0, 0
    for begin in range(0, min(len(tokens), 4 * CONTEXT) - CONTEXT + 1, CONTEXT):
        chunk = tokens[begin:begin + CONTEXT]
        model.reset()
        model.eval(chunk)
        logits = np.array(model.scores[:CONTEXT - 1], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_z = np.log(np.exp(logits).sum(axis=1))
        total += float((log_z - logits[np.arange(CONTEXT - 1), chunk[1:]]).sum())
        count += CONTEXT - 1
    continuation = []
    model.reset()
    for token in model.generate(model.tokenize(PROMPT.encode(), add_bos=False, special=True), temp=0.0):
        if len(continuation) == 32 or token == model.token_eos():
            break
        continuation.append(token)
    return tokens, float(np.exp(total / count)), continuation


def check_tensors(path):
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(values).all(), tensor.name
    assert reader.fields["tokenizer.chat_template"].contents()
    return len(reader.tensors)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--grouper", default=os.path.join(ROOT, "build", "grouper"))
    parser.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.gguf"))
    arguments = parser.parse_args()
    text = "\n".join(open(name, encoding="utf-8").read() for name in sorted(glob.glob(os.path.join(ROOT, "docs", "*.md"))))
    tokens, before, expected = measure(arguments.model, text)
    print(f"original: perplexity {before:.3f}")
    failed = False
    for kind, allowed in ALLOWED.items():
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "model.gguf")
            subprocess.run([arguments.grouper, "convert", "--from", arguments.model, "--to", path, "--format", "gguf", "--dtype", kind], check=True,
                           stdout=subprocess.DEVNULL)
            count = check_tensors(path)
            ours, perplexity, continuation = measure(path, text)
            same = next((i for i, (a, b) in enumerate(zip(continuation, expected)) if a != b), min(len(continuation), len(expected)))
            exact = kind in ("F32", "F16")
            good = ours == tokens and perplexity <= before * allowed and (not exact or continuation == expected)
            failed |= not good
            print(f"{kind:5} {os.path.getsize(path) / 1e6:6.1f} MB, {count} tensors, tokens {'equal' if ours == tokens else 'DIFFER'}, perplexity {perplexity:.3f} "
                  f"({perplexity / before:.4f} x), {same} of {len(expected)} greedy tokens equal{'' if good else '  FAILED'}", flush=True)
    sys.exit(1 if failed else 0)


main()

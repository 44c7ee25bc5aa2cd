#!/usr/bin/env python3
"""Models that `grouper convert` writes, read by transformers: same logits, same tokenizer.

    python3 scripts/check_hf_roundtrip.py [--grouper build/grouper] [NAME ...]       # needs torch, transformers, safetensors

NAME: folders of tests/golden/models, or smollm2 (models/SmolLM2-135M-Instruct.gguf, when it is there). Default: all of them. The golden
folders have no tokenizer; the quickstart's stands in. Exit code 1 when a logit differs by more than 1e-4 of the largest.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(ROOT, "tests", "golden")
QUICKSTART = os.path.join(ROOT, "recipes", "quickstart")


def convert(grouper, source, target, dtype="float32"):
    subprocess.run([grouper, "convert", "--from", source, "--to", target, "--dtype", dtype], check=True, stdout=subprocess.DEVNULL)


def compare(name, directory, ids, expected, columns=slice(None)):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(ids[None].long()).logits[0][:, columns]
    error = ((logits - expected).abs().max() / expected.abs().max()).item()
    print(f"{name:24} {type(model).__name__:22} largest difference {error:.1e}")
    return error < 1e-4


def check_tiny(grouper, name, scratch):
    source, target = os.path.join(scratch, name), os.path.join(scratch, name + "_out")
    shutil.copytree(os.path.join(GOLDEN, "models", name), source)
    os.remove(os.path.join(source, "golden.safetensors"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(QUICKSTART, file), source)
    convert(grouper, source, target)
    golden = load_file(os.path.join(GOLDEN, "models", name, "golden.safetensors"))
    ok = compare(name, target, golden["input_ids"], golden["logits"])
    theirs, ours = AutoTokenizer.from_pretrained(QUICKSTART), AutoTokenizer.from_pretrained(target)
    text = "<bos>123+45=<think>3+5=8</think><answer>168</answer><eos>"
    if theirs(text).input_ids != ours(text).input_ids or theirs.eos_token_id != ours.eos_token_id:
        print(f"{name}: tokenizers differ: {theirs(text).input_ids} and {ours(text).input_ids}")
        ok = False
    return ok


def check_smollm2(grouper, scratch):
    target = os.path.join(scratch, "smollm2")
    convert(grouper, os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.gguf"), target)
    golden = load_file(os.path.join(GOLDEN, "smollm2.safetensors"))
    tokenizer = AutoTokenizer.from_pretrained(target)
    text = ("<|im_start|>user\nNatalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
            "Natalia sell altogether in April and May?<|im_end|>\n<|im_start|>assistant\n")
    ok = tokenizer(text).input_ids == golden["prompt"].tolist()
    if not ok:
        print("smollm2: tokenizers differ")
    return compare("smollm2", target, golden["prompt"], golden["logits"], slice(None, None, 64)) and ok


parser = argparse.ArgumentParser()
parser.add_argument("--grouper", default=os.path.join(ROOT, "build", "grouper"))
parser.add_argument("names", nargs="*")
arguments = parser.parse_args()
names = arguments.names
if not names:
    names = sorted(os.listdir(os.path.join(GOLDEN, "models")))
    if os.path.exists(os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.gguf")):
        names.append("smollm2")
with tempfile.TemporaryDirectory() as scratch:
    results = [check_smollm2(arguments.grouper, scratch) if name == "smollm2" else check_tiny(arguments.grouper, name, scratch) for name in names]
sys.exit(0 if all(results) else 1)

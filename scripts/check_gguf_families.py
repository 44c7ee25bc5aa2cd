#!/usr/bin/env python3
"""GGUF files of every family, read by llama.cpp, the `gguf` package, transformers (gguf_file=, the families that it knows) and by us again.

    python3 scripts/check_gguf_families.py [--grouper build/grouper] [NAME ...]     # needs gguf, llama-cpp-python, transformers, torch, accelerate

For each family: a small random model made by transformers, with the options that llama.cpp can say switched on; `grouper convert --format gguf
--dtype F32`; llama.cpp's logits on 48 random tokens against transformers', and its tokens of a text against the tokenizer's; the file through
`grouper convert --format hf`, whose logits must be the original's within 1e-6. Exit code 1 when llama.cpp differs by more than 1e-4 of the largest logit.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
# name -> golden configuration, changes, llama.cpp reads the same model, transformers reads it from GGUF
FAMILIES = {
    "llama": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "head_dim": 16}, True),
    "llama2-vocab": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "head_dim": 16, "vocab_size": 32000}, True),
    "llama3-rope": ("llama", {"rope_parameters": LLAMA3, "head_dim": 32}, False),  # transformers ignores rope_freqs.weight
    "qwen2": ("qwen2", {}, True),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}, True),
    "qwen3": ("qwen3", {}, False),
    "qwen3-wide": ("qwen3", {"head_dim": 128}, True),  # transformers takes 128 whatever the file says,
    "qwen3-moe": ("qwen3_moe", {"mlp_only_layers": []}, False),
    "qwen3-moe-wide": ("qwen3_moe", {"mlp_only_layers": [], "moe_intermediate_size": 768}, True),  # and 768
    "deepseek-v2": ("deepseek_v2", {"attention_bias": False, "rope_parameters": YARN, "n_group": 1, "topk_group": 1, "topk_method": "greedy"}, False),
    # llama.cpp knows DeepSeek's models without q_lora by their 27 layers.
    "deepseek-v2-lite": ("deepseek_v2_lite", {"rope_parameters": YARN, "num_hidden_layers": 27}, False),
    "deepseek-v3": ("deepseek_v3", {"rope_parameters": dict(YARN, mscale=1.0, mscale_all_dim=1.0)}, False),
    "moonlight": ("deepseek_v3_no_q_lora", {"attention_bias": False, "rope_interleave": True, "num_hidden_layers": 27}, False),
}
TEXT = "Hello there, it's 123 o'clock.\n\n  Two  spaces, \u00e9\u4f60."


def sentencepiece_tokenizer():
    """Llama 2's kind of vocabulary: Mistral's first, as mistral-common carries it."""
    from check_tokenizers import sentencepiece_bpe
    t = tokenizers.Tokenizer.from_str(json.dumps(sentencepiece_bpe("tokenizer.model.v1")))
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_tokenizer(vocab_size=300):
    if vocab_size == 32000:
        return sentencepiece_tokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet + ["th", "the", "er"])}
    t = tokenizers.Tokenizer(models.BPE(vocab, [("t", "h"), ("th", "e"), ("e", "r")]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>")


def make_model(golden, changes, folder):
    config = json.load(open(os.path.join(ROOT, "tests", "golden", "models", golden, "config.json")))
    config.update(**dict({"vocab_size": 300, "hidden_size": 64, "pad_token_id": None}, **changes))
    tokenizer = make_tokenizer(config["vocab_size"])
    config.update(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith("norm.weight") or "layernorm" in name:
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.1)
            elif tensor.dim() >= 2:
                tensor.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def difference(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def check(grouper, name, golden, changes, transformers_reads):
    with tempfile.TemporaryDirectory() as scratch:
        source, path, back = (os.path.join(scratch, x) for x in ("source", "model.gguf", "back"))
        os.mkdir(source)
        model, tokenizer = make_model(golden, changes, source)
        ids = np.random.default_rng(3).integers(0, 256, 48).tolist()
        expected = logits_of(model, ids)
        for command in (["--from", source, "--to", path, "--format", "gguf", "--dtype", "F32"], ["--from", path, "--to", back, "--format", "hf", "--dtype", "float32"]):
            subprocess.run([grouper, "convert", *command], check=True, stdout=subprocess.DEVNULL)
        tensors = len(gguf.GGUFReader(path).tensors)
        loaded = llama_cpp.Llama(path, n_ctx=64, n_batch=64, n_threads=2, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False)
        loaded.eval(ids)
        llama = difference(np.array(loaded.scores[:len(ids)]), expected)
        tokens = loaded.tokenize(TEXT.encode(), add_bos=False) == tokenizer(TEXT, add_special_tokens=False).input_ids
        again = difference(logits_of(AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32, attn_implementation="eager").eval(), ids), expected)
        theirs = None
        if transformers_reads:
            read = AutoModelForCausalLM.from_pretrained(scratch, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager").eval()
            theirs = difference(logits_of(read, ids), expected)
        good = llama < 1e-4 and tokens and again < 1e-6 and (theirs is None or theirs < 1e-5)
        print(f"{name:17} {tensors:3} tensors; difference of llama.cpp {llama:.1e}, of our own reading {again:.1e}, of transformers' "
              f"{'-' if theirs is None else format(theirs, '.1e')}; tokens {'equal' if tokens else 'DIFFER'}{'' if good else '  FAILED'}", flush=True)
        return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--grouper", default=os.path.join(ROOT, "build", "grouper"))
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    results = [check(arguments.grouper, name, *FAMILIES[name]) for name in arguments.names or FAMILIES]
    sys.exit(0 if all(results) else 1)


main()

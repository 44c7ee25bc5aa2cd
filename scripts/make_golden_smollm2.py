#!/usr/bin/env python3
"""Writes tests/golden/smollm2.safetensors: what transformers computes with models/SmolLM2-135M-Instruct.gguf, dequantised to float32.

    scripts/fetch_smollm2.sh && python3 scripts/make_golden_smollm2.py       # needs torch, transformers, gguf, safetensors

    prompt [n] int32: ids of a chat prompt; logits [n, 768] float32: of every 64th id at each position; greedy [64] int32: the continuation
"""
import os

import torch
import transformers
from safetensors.torch import save_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROMPT = ("<|im_start|>user\nNatalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
          "Natalia sell altogether in April and May?<|im_end|>\n<|im_start|>assistant\n")

folder, name = os.path.join(ROOT, "models"), "SmolLM2-135M-Instruct.gguf"
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
prompt = tokenizer(PROMPT, return_tensors="pt").input_ids
with torch.no_grad():
    logits = model(prompt).logits[0]
    greedy = model.generate(prompt, do_sample=False, max_new_tokens=64, min_new_tokens=64, repetition_penalty=1.0)[0, prompt.shape[1]:]
print(tokenizer.decode(greedy))
save_file({"prompt": prompt[0].to(torch.int32), "logits": logits[:, ::64].contiguous(), "greedy": greedy.to(torch.int32)},
          os.path.join(ROOT, "tests", "golden", "smollm2.safetensors"), metadata={"transformers": transformers.__version__, "prompt": PROMPT})

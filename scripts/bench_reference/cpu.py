"""quickstart and smollm2: PyTorch on the CPU, in turns with `grouper bench`.

The quickstart model is written here in plain PyTorch as one would write it for speed without custom kernels: fused projections, absorbed
MLA decode with a key-value cache, experts by index_add, no padding of finished sequences. Ours and theirs take turns; medians of the
rounds are compared.
"""
import json
import math
import os
import re
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

from bench_reference.report import ROOT

ARGS = None


class Quickstart(torch.nn.Module):
    """recipes/quickstart/config.json: 3 layers, MLA, layers 1 and 2 with 1 shared and 8 routed experts, top 2 by sigmoid + bias."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        d, h = c["hidden_size"], c["num_attention_heads"]
        nope, rope, v, r = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
        P = lambda *s: torch.nn.Parameter(torch.randn(*s) / math.sqrt(s[-1]))  # noqa: E731
        self.embed, self.head = P(c["vocab_size"], d), P(c["vocab_size"], d)
        self.norm = torch.nn.Parameter(torch.ones(d))
        self.layers = torch.nn.ModuleList()
        for i in range(c["num_hidden_layers"]):
            L = torch.nn.Module()
            L.n1, L.n2, L.nkv = (torch.nn.Parameter(torch.ones(n)) for n in (d, d, r))
            L.qkv = P(h * (nope + rope) + r + rope, d)
            L.uk, L.uv, L.o = P(h, nope, r), P(h, v, r), P(d, h * v)
            L.moe = i >= c["first_k_dense_replace"]
            if L.moe:
                e, m = c["n_routed_experts"], c["moe_intermediate_size"]
                L.gate, L.bias = P(e, d), torch.zeros(e)
                L.gu, L.down = P(e, 2 * m, d), P(e, d, m)
                L.sgu, L.sdown = P(2 * m, d), P(d, m)
            else:
                m = c["intermediate_size"]
                L.gu, L.down = P(2 * m, d), P(d, m)
            self.layers.append(L)
        freq = c["rope_theta"] ** (-torch.arange(0, rope, 2).float() / rope)
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(), freq)
        self.cos, self.sin = angle.cos(), angle.sin()

    @staticmethod
    def rms(x, w):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w

    def rope(self, x, pos):
        cos, sin = self.cos[pos], self.sin[pos]
        if x.dim() == 4:
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    @staticmethod
    def swiglu(x, gu, down):
        g, u = F.linear(x, gu).chunk(2, -1)
        return F.linear(F.silu(g) * u, down)

    def moe(self, L, x):
        c = self.c
        flat = x.reshape(-1, x.shape[-1])
        scores = F.linear(flat, L.gate).sigmoid()
        ids = (scores + L.bias).topk(c["num_experts_per_tok"], -1).indices
        w = scores.gather(-1, ids)
        w = w / (w.sum(-1, keepdim=True) + 1e-20)
        order = ids.flatten().argsort(stable=True)
        token = order // c["num_experts_per_tok"]
        counts = torch.bincount(ids.flatten(), minlength=c["n_routed_experts"]).tolist()
        rows = flat[token].split(counts)
        out = torch.cat([self.swiglu(r, L.gu[e], L.down[e]) for e, r in enumerate(rows)])
        y = self.swiglu(flat, L.sgu, L.sdown).index_add(0, token, out * w.flatten()[order, None])
        return y.view_as(x)

    def forward(self, ids, pos, mask, cache=None, at=0):
        c = self.c
        h, nope, rope, r = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["kv_lora_rank"]
        B, T = ids.shape
        x = self.embed[ids]
        for i, L in enumerate(self.layers):
            y = F.linear(self.rms(x, L.n1), L.qkv)
            q, lat, kr = y.split([h * (nope + rope), r, rope], -1)
            q = q.view(B, T, h, nope + rope)
            ql = torch.einsum("bthn,hnr->bthr", q[..., :nope], L.uk)
            q = torch.cat((ql, self.rope(q[..., nope:], pos)), -1)
            k = torch.cat((self.rms(lat, L.nkv), self.rope(kr, pos)), -1)
            if cache is not None:
                cache[i][:, at:at + T] = k
                k = cache[i][:, :at + T]
            s = torch.einsum("bthd,bsd->bhts", q, k) / math.sqrt(nope + rope)
            p = s.masked_fill(mask, float("-inf")).softmax(-1)
            o = torch.einsum("bhts,bsr->bthr", p, k[..., :r])
            o = torch.einsum("bthr,hvr->bthv", o, L.uv).flatten(2)
            x = x + F.linear(o, L.o)
            z = self.rms(x, L.n2)
            x = x + (self.moe(L, z) if L.moe else self.swiglu(z, L.gu, L.down))
        return F.linear(self.rms(x, self.norm), self.head)


def torch_quickstart_train(model, steps=12, batch=96, length=34):
    """Steps of forward, backward and AdamW on `batch` sequences of `length` tokens, in micro-batches of 64 as in QUICKSTART."""
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)
    pos = torch.arange(length)
    times = []
    for _ in range(steps):
        ids = torch.randint(0, 31, (batch, length + 1))
        start = time.perf_counter()
        for part in ids.split(64):
            logits = model(part[:, :-1], pos, mask)
            loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) * len(part) / batch
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    return batch * length / statistics.median(times[2:])


@torch.inference_mode()
def torch_quickstart_generate(model, batch=256, group=8, prompt=9, new=32):
    """Samples `group` completions of each of batch / group prompts, as a GRPO step does."""
    c = model.c
    width = c["kv_lora_rank"] + c["qk_rope_head_dim"]
    ids = torch.randint(0, 31, (batch // group, prompt)).repeat_interleave(group, 0)
    start = time.perf_counter()
    cache = [torch.zeros(batch, prompt + new, width) for _ in model.layers]
    logits = model(ids, torch.arange(prompt), torch.ones(prompt, prompt, dtype=torch.bool).triu(1), cache, 0)[:, -1]
    for t in range(prompt, prompt + new):
        logp = logits.log_softmax(-1)
        token = torch.multinomial(logp.exp(), 1)
        logp.gather(-1, token)
        if t + 1 < prompt + new:
            no_mask = torch.zeros(1, t + 1, dtype=torch.bool)
            logits = model(token, torch.tensor([t]), no_mask, cache, t)[:, -1]
    return batch * new / (time.perf_counter() - start)


def ours(*arguments):
    """Runs `grouper bench ...` and returns the number before 'tok/s' of its last such line."""
    out = subprocess.run([ARGS.grouper, "bench", *arguments, "--threads", str(ARGS.threads)], check=True, capture_output=True,
                         text=True).stdout
    return float(re.findall(r"([\d.]+) tok/s", out)[-1])


def compare(rows):
    print(f"{'what':44} {'PyTorch tok/s':>14} {'grouper tok/s':>14} {'ratio':>7}   ({ARGS.threads} threads, median of {ARGS.rounds})")
    for name, theirs, mine in rows:
        a, b = [], []
        for _ in range(ARGS.rounds):
            a.append(theirs())
            b.append(mine())
        a, b = statistics.median(a), statistics.median(b)
        print(f"{name:44} {a:14.0f} {b:14.0f} {b / a:7.2f}", flush=True)


def quickstart():
    config = os.path.join(ROOT, "recipes", "quickstart", "config.json")
    model = Quickstart(json.load(open(config)))
    compare([
        ("quickstart training, 96 x 34", lambda: torch_quickstart_train(model),
         lambda: ours("train", "--model", config, "--batch", "96", "--length", "34")),
        ("quickstart generation, 32 x 8, 9 + 32", lambda: torch_quickstart_generate(model),
         lambda: ours("rollout", "--model", config, "--batch", "256", "--group", "8", "--prompt", "9", "--new-tokens", "32")),
    ])


def smollm2():
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(ARGS.smollm2), gguf_file=os.path.basename(ARGS.smollm2),
                                                 dtype=torch.float32)

    def generate(batch=16, prompt=32, new=32):
        ids = torch.randint(100, 40000, (batch, prompt))
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, min_new_tokens=new, max_new_tokens=new, pad_token_id=2)
        return batch * new / (time.perf_counter() - start)

    def train(batch=4, length=128, steps=3):
        opt = torch.optim.AdamW(model.parameters(), lr=1e-9)
        times = []
        for _ in range(steps):
            ids = torch.randint(100, 40000, (batch, length))
            start = time.perf_counter()
            model(ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - start)
        return batch * length / statistics.median(times[1:])

    compare([
        ("SmolLM2-135M generation, batch 16, 32 + 32", generate,
         lambda: ours("rollout", "--model", ARGS.smollm2, "--batch", "16", "--prompt", "32", "--new-tokens", "32")),
        ("SmolLM2-135M training, 4 x 128", train,
         lambda: ours("train", "--model", ARGS.smollm2, "--batch", "4", "--length", "128")),
    ])


def run(args):
    global ARGS
    ARGS = args
    torch.set_num_threads(args.threads)
    {"quickstart": quickstart, "smollm2": smollm2}[args.mode]()

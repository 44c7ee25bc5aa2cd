"""gpu-kernels: every line of `grouper bench kernels --filter cuda` beside the same shape in torch.

Timed as kernels/cuda_bench.cc does: random inputs, medians of 20 between events that follow one another without a wait, decode as a graph of 64 whose
weights rotate through more than L2. Whatever is not decode is timed twice, launched by torch and replayed as a graph (so that Python's time never
counts), and where torch has several ways to one result, all are timed: the fastest is the figure, and its name stands beside it.

A new line of grouper's gets its torch figure from a function below with a pattern for its name. A line that no pattern matches is printed with '-'.
"""
import contextlib
import gc
import json
import math
import multiprocessing
import os
import re
import statistics
import time
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench_reference.report import NUMBER, ROOT, OutOfTime, short

RUNS, RECORDED, ROTATION = 20, 64, 256 << 20


class Spoiled(Exception):
    """The line's ways from this one on want a process of their own."""

    def __init__(self, next_way):
        super().__init__("a recording failed")
        self.next_way = next_way


@contextlib.contextmanager
def without_waits():
    """An op that waits for the GPU is an error here. In a graph it would be one that torch's allocator does not recover from."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Bench:
    def __init__(self, tiny):
        self.tiny, self.cuda = tiny, not tiny
        self.device = torch.device("cpu" if tiny else "cuda")
        self.spoiled = False  # this process measures nothing right any more
        self.first_way, self.tell = 0, lambda *_: None  # of a line's ways those before were timed by another process; hears of each
        torch.manual_seed(1)

    # Inputs.
    def small(self, *sizes, most=16):
        return sizes if not self.tiny else tuple(min(s, most) for s in sizes)

    def bf16(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16)

    def f32(self, *shape):
        return torch.randn(*shape, device=self.device)

    def sets(self, bytes_each, most):
        return 1 if self.tiny else max(1, min(most, ROTATION // bytes_each))

    # Times, in microseconds.
    def medians(self, launch):
        if not self.cuda:
            times = []
            for i in range(3):
                start = time.perf_counter()
                launch(i)
                times.append((time.perf_counter() - start) * 1e6)
            return statistics.median(times)
        launch(0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(1, 3):
            launch(i)
        torch.cuda.synchronize()
        runs = max(3, min(RUNS, int(3 / (time.perf_counter() - start))))  # fewer where they would take more than 1.5 s
        events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
        events[0].record()
        for i in range(runs):
            launch(i + 3)
            events[i + 1].record()
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) * 1e3 for a, b in zip(events, events[1:]))

    @contextlib.contextmanager
    def capture(self, graph, stream, pool=None):
        """torch.cuda.graph without its collection of garbage and emptying of caches, which `settle` does: there are hundreds of graphs."""
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            graph.capture_begin(**({} if pool is None else {"pool": pool}))
            try:
                yield
            finally:
                try:
                    graph.capture_end()
                except Exception:
                    # torch's allocator keeps what comes from here on for the graph that failed, and every op that draws will fail.
                    self.spoiled = True
                    raise

    def graph(self, run, count, first=0):
        """A graph of run(first) ... run(first + count - 1), after one run outside of it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), without_waits():
            run(first)
        graph = torch.cuda.CUDAGraph()
        with self.capture(graph, side):
            for i in range(first, first + count):
                run(i)
        return graph

    def time(self, run, sets=1):
        """run(i) with i < sets: the faster of launching it and of replaying it."""
        eager = self.medians(lambda i: run(i % sets))
        if not self.cuda:
            return eager
        graphs = []
        try:
            graphs = [self.graph(run, 1, i) for i in range(sets)]
            return min(eager, self.medians(lambda i: graphs[i % len(graphs)].replay()))
        except Exception:  # noqa: BLE001  (an op that cannot be captured)
            return eager

    def recorded(self, run, sets):
        """One of 64 in a graph."""
        if not self.cuda:
            return self.medians(lambda i: run(i % sets))
        graph = self.graph(lambda i: run(i % sets), RECORDED)
        return self.medians(lambda i: graph.replay()) / RECORDED

    def backward(self, function, inputs, sets=1):
        """function(*inputs(i)) is run once; its gradients are timed alone."""
        kept = []
        for i in range(sets):
            arguments = inputs(i)
            leaves = [a for a in arguments if a.requires_grad]
            out = function(*arguments)
            kept.append((out, leaves, torch.randn_like(out)))

        def gradients(i):
            out, leaves, dout = kept[i % sets]
            return torch.autograd.grad(out, leaves, dout, retain_graph=True)
        eager = self.medians(gradients)
        if not self.cuda:
            return eager
        graphs = []
        try:  # gradients run on the stream of their forward pass, so that one is captured too
            side = torch.cuda.Stream()
            for i in range(sets):
                arguments = inputs(i)
                leaves = [a for a in arguments if a.requires_grad]
                forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
                with self.capture(forward, side):
                    out = function(*arguments)
                forward.replay()
                dout = kept[i][2]
                with without_waits():
                    gradients(i)
                with self.capture(backward, side, forward.pool()):
                    torch.autograd.grad(out, leaves, dout, retain_graph=True)
                graphs.append((forward, backward, out))
            return min(eager, self.medians(lambda i: graphs[i % sets][1].replay()))
        except Exception:  # noqa: BLE001
            return eager

    def fastest(self, ways):
        """ways: (name, function that gives microseconds). (microseconds, name) of the fastest; the last error where none works."""
        best, error = None, None
        for number, (name, way) in enumerate(ways):
            if number < self.first_way:
                continue
            try:
                us = way()
                self.tell(us, name)
                if best is None or us < best[0]:
                    best = us, name
            except Exception as e:  # noqa: BLE001  (this way is not there in this version or for this shape)
                error = RuntimeError(f"{name}: {short(e)}")
            self.settle()
            if self.spoiled and number + 1 < len(ways):
                raise Spoiled(number + 1)
        if best is None:
            raise error
        return best

    def settle(self):
        gc.collect()
        if self.cuda:
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except Exception:  # noqa: BLE001  (the GPU answers with errors from here on)
                self.spoiled = True


# Counterparts: pattern of grouper's name, then a function of the bench and the pattern's groups (numbers as int) that gives (microseconds, how).
COUNTERPARTS = []


def counterpart(pattern):
    def add(function):
        COUNTERPARTS.append((re.compile(pattern), function))
        return function
    return add


def find(name):
    for pattern, function in COUNTERPARTS:
        match = pattern.match(name)
        if match:
            return function, [int(g) if g is not None and g.isdigit() else g for g in match.groups()]
    return None, []


@counterpart(r"cuda copy of 1 GiB")
def copy(b):
    count = (1 << 28) if not b.tiny else 16
    x, y = torch.randn(count, device=b.device), torch.empty(count, device=b.device)
    return b.time(lambda i: y.copy_(x)), "copy_"


# Products.

@counterpart(r"cuda forward (\d+) x (\d+) x (\d+)$")
def forward(b, t, n, k):
    t, n, k = b.small(t, n, k)
    x, w = b.bf16(t, k), b.bf16(n, k)
    return b.time(lambda i: F.linear(x, w)), "F.linear"


@counterpart(r"cuda dx (\d+) x (\d+) x (\d+)$")
def dx(b, t, n, k):
    t, n, k = b.small(t, n, k)
    dy, w = b.bf16(t, n), b.bf16(n, k)
    return b.time(lambda i: torch.mm(dy, w)), "mm"


@counterpart(r"cuda dw (= )?(\d+) x (\d+) x (\d+)$")
def dw(b, written, t, n, k):
    t, n, k = b.small(t, n, k)
    dy, x, sums = b.bf16(t, n), b.bf16(t, k), torch.zeros(n, k, device=b.device)
    narrow = b.time(lambda i: torch.mm(dy.t(), x))
    if written:
        ways = [("mm to float", lambda: b.time(lambda i: torch.mm(dy.t(), x, out_dtype=torch.float32))),
                ("mm to bf16, then copied to float", lambda: b.time(lambda i: sums.copy_(torch.mm(dy.t(), x))))]
    else:
        ways = [("addmm to float", lambda: b.time(lambda i: torch.addmm(sums, dy.t(), x, out_dtype=torch.float32, out=sums))),
                ("mm to bf16, then added to float", lambda: b.time(lambda i: sums.add_(torch.mm(dy.t(), x))))]
    us, how = b.fastest(ways)
    return us, f"{how} (mm to bf16 alone {narrow:.1f} us)"


@counterpart(r"cuda decode (\d+) x (\d+) x (\d+)$")
def decode(b, t, n, k):
    t, n, k = b.small(t, n, k)
    sets = b.sets(n * k * 2, 64)
    weights, x = b.bf16(sets, n, k), b.bf16(t, k)
    return b.recorded(lambda i: F.linear(x, weights[i]), sets), "F.linear in a graph"


# Experts.

def grouped_mm(*arguments, **options):
    return getattr(F, "grouped_mm", getattr(torch, "_grouped_mm", None))(*arguments, **options)


def groups(b, experts, rows):
    """Where the rows of each expert end, random as a router's: on the device, and as (expert, first, end) of those that have rows."""
    counts = torch.bincount(torch.randint(experts, (rows,), generator=torch.Generator().manual_seed(3)), minlength=experts)
    ends = counts.cumsum(0)
    spans = [(e, int(end - n), int(end)) for e, (n, end) in enumerate(zip(counts, ends)) if n]
    return ends.to(torch.int32).to(b.device), spans


@counterpart(r"cuda grouped (forward|decode|dx) (\d+) experts, (\d+) rows, (\d+) x (\d+)$")
def grouped(b, what, experts, rows, n, k):
    experts, rows, n, k = b.small(experts, rows, n, k)
    ends, spans = groups(b, experts, rows)
    w, x = b.bf16(experts, n, k), b.bf16(rows, n if what == "dx" else k)
    each = w if what == "dx" else w.transpose(-2, -1)
    y = torch.empty(rows, each.shape[-1], device=b.device, dtype=torch.bfloat16)

    def loop(i):
        for e, first, end in spans:
            torch.mm(x[first:end], each[e], out=y[first:end])
    return b.fastest([("grouped_mm", lambda: b.time(lambda i: grouped_mm(x, each, offs=ends))), ("a loop of mm", lambda: b.time(loop))])


@counterpart(r"cuda grouped dw (in bf16 )?(= )?(\d+) experts, (\d+) rows, (\d+) x (\d+)$")
def grouped_dw(b, narrow, written, experts, rows, n, k):
    experts, rows, n, k = b.small(experts, rows, n, k)
    ends, spans = groups(b, experts, rows)
    dy, x = b.bf16(rows, n), b.bf16(rows, k)
    sums = torch.zeros(experts, n, k, device=b.device, dtype=torch.bfloat16 if narrow else torch.float32)
    product = lambda: grouped_mm(dy.t(), x, offs=ends)  # noqa: E731
    if written:
        way = ("grouped_mm", lambda i: product()) if narrow else ("grouped_mm to bf16, then copied to float", lambda i: sums.copy_(product()))
    else:
        way = (f"grouped_mm to bf16, then added{'' if narrow else ' to float'}", lambda i: sums.add_(product()))

    def loop(i):
        for e, first, end in spans:
            rows_of = dy[first:end].t(), x[first:end]
            if narrow:
                torch.mm(*rows_of, out=sums[e]) if written else torch.addmm(sums[e], *rows_of, out=sums[e])
            elif written:
                torch.mm(*rows_of, out_dtype=torch.float32, out=sums[e])
            else:
                torch.addmm(sums[e], *rows_of, out_dtype=torch.float32, out=sums[e])
    return b.fastest([(way[0], lambda: b.time(way[1])), (f"a loop of {'mm' if written else 'addmm'}", lambda: b.time(loop))])


# Attention.

BACKENDS = [(name, getattr(SDPBackend, name)) for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH") if hasattr(SDPBackend, name)]


def sdpa_ways(run, variants, math_too=False):
    """(name, way) for each backend and variant; run(*variant) gives microseconds."""
    ways = []
    for name, backend in BACKENDS:
        if name == "MATH" and not math_too:
            continue
        for label, variant in variants:
            def way(backend=backend, variant=variant):
                with sdpa_kernel(backend):
                    return run(*variant)
            ways.append((f"SDPA, {name.split('_')[0].lower()}{label}", way))
    return ways


def heads_of(b, sequences, length, heads, dim, grad=False):
    """[sequences, heads, length, dim] as a model has them: heads of a token side by side."""
    return b.bf16(sequences, length, heads, dim).transpose(1, 2).detach().requires_grad_(grad)


@counterpart(r"cuda attention (training|gradients) (\d+)(?:/(\d+))? x (\d+)(?:/(\d+))?, (\d+) x (\d+)$")
def attention_training(b, what, heads, kv, key, value, sequences, length):
    kv, value = kv or heads, value or key
    sequences, length = b.small(sequences, length)
    grad = what == "gradients"
    variants = [("", (kv, {"enable_gqa": True} if kv != heads else {}))]
    if kv != heads:
        variants.append((f" with {heads} heads of keys", (heads, {})))

    def run(kv_heads, options):
        q = heads_of(b, sequences, length, heads, key, grad)
        k, v = (heads_of(b, sequences, length, kv_heads, width, grad) for width in (key, value))
        attend = lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True, **options)  # noqa: E731
        return b.backward(attend, lambda i: (q, k, v)) if grad else b.time(lambda i: attend(q, k, v))
    return b.fastest(sdpa_ways(run, variants, b.tiny))


@counterpart(r"cuda attention training MLA (\d+) heads, (\d+) x (\d+)$")
def mla_training(b, heads, sequences, length):
    heads, sequences, length = b.small(heads, sequences, length)
    q, k = heads_of(b, sequences, length, heads, 576), heads_of(b, sequences, length, 1, 576)
    run = lambda: b.time(lambda i: F.scaled_dot_product_attention(q, k.expand(-1, heads, -1, -1), k[..., :512].expand(-1, heads, -1, -1), is_causal=True))  # noqa: E731
    us, how = b.fastest(sdpa_ways(run, [("", ())], math_too=True))
    return us, how + ", absorbed too; unabsorbed: the lines with 192/128"


@counterpart(r"cuda attention decode (\d+)/(\d+) x (\d+), (\d+) x (\d+)(?:, (\d+) share (\d+))?$")
def attention_decode(b, heads, kv, dim, sequences, context, members, shared):
    sequences, context = b.small(sequences, context)
    sets = b.sets(4 * sequences * context * kv * dim, 16)
    keys, values = b.bf16(sets, sequences, kv, context, dim), b.bf16(sets, sequences, kv, context, dim)
    q = b.bf16(sequences, heads, 1, dim)
    rows = q.view(sequences, kv, heads // kv, dim)
    run = lambda query, options: b.recorded(lambda i: F.scaled_dot_product_attention(query, keys[i], values[i], **options), sets)  # noqa: E731
    us, how = b.fastest(sdpa_ways(run, [("", (q, {"enable_gqa": True})), (", a kv head's queries as rows", (rows, {}))], b.tiny))
    return us, f"{how}; contiguous, not paged" + (", nothing shared" if members else "")


@counterpart(r"cuda attention decode MLA (\d+) heads, (\d+) x (\d+)(?:, (\d+) share (\d+))?$")
def mla_decode(b, heads, sequences, context, members, shared):
    heads, sequences, context = b.small(heads, sequences, context)
    sets = b.sets(2 * sequences * context * 576, 16)
    latents, q, scale = b.bf16(sets, sequences, context, 576), b.bf16(sequences, heads, 576), 1 / math.sqrt(576)

    def products(i):
        p = torch.bmm(q, latents[i].transpose(1, 2)).mul_(scale).softmax(-1)
        return torch.bmm(p, latents[i][..., :512])

    def sdpa():
        return b.recorded(lambda i: F.scaled_dot_product_attention(q.unsqueeze(1), latents[i].unsqueeze(1), latents[i][..., :512].unsqueeze(1)), sets)

    def flash_mla():
        from flash_mla import flash_mla_with_kvcache, get_mla_metadata
        pages = -(-context // 64)
        pool = [b.bf16(sequences * pages, 64, 1, 576) for _ in range(sets)]
        table = torch.randperm(sequences * pages, device=b.device).to(torch.int32).view(sequences, pages)
        lengths = torch.full((sequences,), context, device=b.device, dtype=torch.int32)
        plan, splits = get_mla_metadata(lengths, heads, 1)
        query = q.unsqueeze(1)
        return b.recorded(lambda i: flash_mla_with_kvcache(query, pool[i], table, lengths, 512, plan, splits, causal=True), sets)
    us, how = b.fastest([("bmm, softmax, bmm", lambda: b.recorded(products, sets))] + sdpa_ways(sdpa, [("", ())]) + [("FlashMLA, paged", flash_mla)])
    return us, how + ("" if how.startswith("FlashMLA") else "; contiguous, not paged") + (", nothing shared" if members else "")


# The head: sampling, log-probabilities with entropies, their gradient.

def filtered(logits, top_k, top_p):
    """Logits with -inf where the filters leave nothing."""
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k, -1).values[:, -1:], float("-inf"))
    if top_p:
        ordered, ids = logits.sort(-1, descending=True)
        p = ordered.softmax(-1)
        drop = p.cumsum(-1) - p >= top_p
        logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, ids, drop), float("-inf"))
    return logits


@counterpart(r"cuda (sample|logprobs gradient|logprobs) (\d+) x (\d+)(?:, top_k (\d+))?(?:, top_p ([\d.]+))?(?:, bf16)?$")
def head(b, what, rows, ids, top_k, top_p):
    rows, ids = b.small(rows, ids)
    top_k, top_p = top_k and min(top_k, ids), top_p and float(top_p)
    sets = b.sets(rows * ids * 4, 16)
    logits = b.f32(sets, rows, ids)
    tokens = filtered(logits[0], top_k, top_p).argmax(-1, keepdim=True)  # any that the filters leave
    if what == "sample":
        def multinomial(i):
            logp = filtered(logits[i], top_k, top_p).log_softmax(-1)
            token = torch.multinomial(logp.exp(), 1)
            return token, logp.gather(-1, token)

        def exponential(i):
            logp = filtered(logits[i], top_k, top_p).log_softmax(-1)
            token = (logp.exp() / torch.empty_like(logp).exponential_()).argmax(-1, keepdim=True)
            return token, logp.gather(-1, token)

        def among(i):
            values, at = logits[i].topk(top_k, -1)
            logp = values.log_softmax(-1)
            drawn = torch.multinomial(logp.exp(), 1)
            return at.gather(-1, drawn), logp.gather(-1, drawn)
        ways = [("log_softmax, multinomial", multinomial), ("log_softmax, exponential, argmax", exponential)]
        if top_k and not top_p:
            ways.append(("topk, multinomial", among))
        return b.fastest([(name, lambda way=way: b.time(way, sets)) for name, way in ways])
    if what == "logprobs":
        def score(i):
            logp = filtered(logits[i], top_k, top_p).log_softmax(-1)
            return logp.gather(-1, tokens), -(logp.exp() * logp.clamp_min(-1e30)).sum(-1)

        def sums(i):
            x = filtered(logits[i], top_k, top_p)
            total = x.logsumexp(-1, keepdim=True)
            return x.gather(-1, tokens) - total, total.squeeze(-1) - ((x - total).exp() * x.clamp_min(-1e30)).sum(-1)
        ways = [("log_softmax, gather, entropy", score), ("logsumexp, gather, entropy", sums)]
        return b.fastest([(name, lambda way=way: b.time(way, sets)) for name, way in ways])
    sets = min(sets, 4)  # autograd keeps as much again of each
    leaves = [logits[i].clone().requires_grad_() for i in range(sets)]
    del logits
    ways = [("autograd of log_softmax, gather", lambda x: filtered(x, top_k, top_p).log_softmax(-1).gather(-1, tokens)),
            ("autograd of cross_entropy", lambda x: -F.cross_entropy(filtered(x, top_k, top_p), tokens.squeeze(-1), reduction="none"))]
    return b.fastest([(name, lambda way=way: b.backward(way, lambda i: (leaves[i],), sets)) for name, way in ways])


# Products and the gate behind the first, or before the second's input, in two ops.

def gated_by(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def gate_gradient(d_out, gate_up):
    gate, up = gate_up.chunk(2, -1)
    return torch.cat((torch.ops.aten.silu_backward(d_out * up, gate), d_out * F.silu(gate)), -1)


@counterpart(r"cuda gated (decode|forward) (\d+) x (\d+) x (\d+)$")
def gated(b, which, tokens, n, k):
    tokens, n, k = b.small(tokens, n, k)
    sets = b.sets(n * k * 2, 64)
    weights, x = b.bf16(sets, n, k), b.bf16(tokens, k)
    time_of = b.recorded if which == "decode" else b.time
    return time_of(lambda i: gated_by(F.linear(x, weights[i])), sets), "F.linear, silu(gate) * up" + (" in a graph" if which == "decode" else "")


@counterpart(r"cuda gated (forward )?grouped (\d+) experts, (\d+) rows, (\d+) x (\d+)$")
def gated_grouped(b, training, experts, rows, n, k):
    experts, rows, n, k = b.small(experts, rows, n, k)
    ends, _ = groups(b, experts, rows)
    w, x, token = b.bf16(experts, n, k), b.bf16(rows, k), torch.randperm(rows, device=b.device)
    return b.time(lambda i: gated_by(grouped_mm(x[token], w.transpose(1, 2), offs=ends))), "rows gathered, grouped_mm, silu(gate) * up"


@counterpart(r"cuda gate gradient (\d+) x (\d+) x (\d+)$")
def gate_gradient_of_one(b, tokens, n, k):
    tokens, n, k = b.small(tokens, n, k)
    dy, w, gate_up = b.bf16(tokens, n), b.bf16(n, k), b.bf16(tokens, 2 * k)
    return b.time(lambda i: gate_gradient(dy @ w, gate_up)), "mm, silu_backward, products, cat"


@counterpart(r"cuda gate gradient grouped (\d+) experts, (\d+) rows, (\d+) x (\d+)$")
def gate_gradient_grouped(b, experts, rows, n, k):
    experts, rows, n, k = b.small(experts, rows, n, k)
    ends, _ = groups(b, experts, rows)
    dy, w, gate_up = b.bf16(rows, n), b.bf16(experts, n, k), b.bf16(rows, 2 * k)
    return b.time(lambda i: gate_gradient(grouped_mm(dy, w, offs=ends), gate_up)), "grouped_mm, silu_backward, products, cat"


# Element-wise ops; the first number is of rows, the last of the op's output's columns.

BACKWARD = re.compile(r"grad|backward|\bdx\b", re.I)


def elementwise(b, name, ways, inputs, sets):
    """ways: (how, function of one set's tensors); forward, or its gradients where the line's name says so."""
    made = [inputs() for _ in range(sets)]
    if BACKWARD.search(name):
        leaves = [[x.detach().requires_grad_() if x.is_floating_point() else x for x in one] for one in made[:4]]
        return b.fastest([(how + ", its gradient", lambda way=way: b.backward(way, lambda i: leaves[i], len(leaves))) for how, way in ways])
    return b.fastest([(how, lambda way=way: b.time(lambda i: way(*made[i]), sets)) for how, way in ways])


@counterpart(r"(?i)(cuda .*rms ?_?norm\D*?) ?(\d+) x (\d+)\b")
def rms_norm(b, name, rows, n):
    rows, n = b.small(rows, n)
    added = "of a sum" in name

    def written(x, w, *rest):
        x = x + rest[0] if rest else x
        wide = x.float()
        return w * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
    fused = lambda x, w, *rest: F.rms_norm(x + rest[0] if rest else x, (n,), w, 1e-5)  # noqa: E731
    inputs = lambda: (b.bf16(rows, n), b.bf16(n)) + ((b.bf16(rows, n),) if added else ())  # noqa: E731
    return elementwise(b, name, [("F.rms_norm", fused), ("RMSNorm written out", written)], inputs, b.sets(rows * n * 4, 16))


@counterpart(r"(?i)(cuda .*(?:swiglu|silu)\D*?) ?(\d+) x (\d+)\b")
def swiglu(b, name, rows, n):
    rows, n = b.small(rows, n)

    def apply(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    return elementwise(b, name, [(f"silu(gate) * up, {n} wide", apply)], lambda: (b.bf16(rows, 2 * n),), b.sets(rows * n * 6, 16))


@counterpart(r"(?i)(cuda .*\brope\D*?) ?(\d+) x (\d+) x (\d+)\b")
def rope(b, name, rows, heads, dim):
    rows, heads, dim = b.small(rows, heads, dim)
    angle = torch.rand(rows, 1, dim, device=b.device)
    cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()

    def apply(x):
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat((-high, low), -1) * sin
    return elementwise(b, name, [("x * cos + rotate_half(x) * sin", apply)], lambda: (b.bf16(rows, heads, dim),), b.sets(rows * heads * dim * 4, 16))


@counterpart(r"cuda router (product|dx|dw) (\d+) x (\d+) x (\d+), float weights$")
def router(b, which, tokens, experts, hidden):
    tokens, experts, hidden = b.small(tokens, experts, hidden)
    x, w, dy = b.bf16(tokens, hidden), b.f32(experts, hidden), b.f32(tokens, experts)
    way = {"product": lambda i: F.linear(x.float(), w), "dx": lambda i: (dy @ w).bfloat16(), "dw": lambda i: dy.t() @ x.float()}[which]
    return b.time(way), "in float, rows widened (dx: rounded)"


@counterpart(r"cuda route softmax (\d+) x (\d+), top (\d+)$")
def route(b, tokens, experts, top_k):
    tokens, experts = b.small(tokens, experts)
    logits = b.f32(tokens, experts)
    return b.time(lambda i: logits.softmax(-1).topk(min(top_k, experts), -1)), "softmax, topk"


@counterpart(r"cuda sort by expert (\d+) rows, (\d+) experts$")
def sort(b, rows, experts):
    rows, experts = b.small(rows, experts)
    ids = torch.randint(experts, (rows,), device=b.device)
    return b.time(lambda i: (torch.sort(ids, stable=True), torch.bincount(ids, minlength=experts).cumsum(0))), "stable sort, bincount, cumsum"


@counterpart(r"cuda combine experts (\d+) x (\d+) x (\d+)$")
def combine(b, tokens, top_k, hidden):
    tokens, hidden = b.small(tokens, hidden)
    rows, weights = b.bf16(tokens * top_k, hidden), b.f32(tokens, top_k, 1)
    row_of = torch.randperm(tokens * top_k, device=b.device)
    return b.time(lambda i: (rows[row_of].view(tokens, top_k, hidden) * weights).sum(1).bfloat16()), "gather, times weights, sum"


@counterpart(r"cuda embedding (gradient )?(\d+) x (\d+) of (\d+) ids$")
def embedding(b, gradient, tokens, hidden, ids):
    tokens, hidden, ids = b.small(tokens, hidden, ids)
    table, dy = b.bf16(ids, hidden), b.bf16(tokens, hidden)
    chosen = torch.randint(ids, (tokens,), device=b.device)
    if gradient:
        return b.time(lambda i: torch.ops.aten.embedding_dense_backward(dy, chosen, ids, -1, False)), "embedding_dense_backward"
    return b.time(lambda i: F.embedding(chosen, table)), "F.embedding"


# The optimizer, on SmolLM2's tensors.

def smollm2_tensors(b):
    c = json.load(open(os.path.join(ROOT, "recipes", "shapes", "smollm2_135m.json")))
    d, m, v, head = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["hidden_size"] // c["num_attention_heads"]
    kv = c["num_key_value_heads"] * head
    if b.tiny:
        d, m, v, kv = 12, 16, 20, 4
    layer = [(d, d), (kv, d), (kv, d), (d, d), (m, d), (m, d), (d, m), (d,), (d,)]
    return [torch.randn(*shape, device=b.device) for shape in [(v, d), (d,)] + layer * c["num_hidden_layers"]]


@counterpart(r"(?i)(cuda .*adam ?w.*)")
def adamw(b, name):
    clipped = re.search(r"norm|clip", name, re.I)
    ways = []
    for kind in ("fused", "foreach"):
        def way(kind=kind):
            masters = smollm2_tensors(b)
            for p in masters:
                p.grad = torch.randn_like(p)
            weights = [p.bfloat16() for p in masters]
            opt = torch.optim.AdamW(masters, lr=1e-6, betas=(0.9, 0.95), capturable=b.cuda, **{kind: True})

            def step(i):
                if clipped:
                    torch.nn.utils.clip_grad_norm_(masters, 1.0)
                opt.step()
                torch._foreach_copy_(weights, masters)
            return b.time(step)
        ways.append((f"{'clip_grad_norm_, ' if clipped else ''}AdamW ({kind}), _foreach_copy_ to bf16, on SmolLM2's tensors", way))
    return b.fastest(ways)


@counterpart(r"(?i)cuda .*(?:sum of squares|gradient'?s? norm|grad norm|clip)")
def gradient_norm(b):
    parameters = smollm2_tensors(b)
    for p in parameters:
        p.grad = torch.randn_like(p)
    return b.time(lambda i: torch.nn.utils.clip_grad_norm_(parameters, 1e9)), "clip_grad_norm_ on SmolLM2's tensors"


# Timed where there is no grouper: most of its lines.
LINES = """cuda copy of 1 GiB, device to device
cuda forward 8192 x 8192 x 8192""".splitlines()
for shape in ("16384 x 960 x 576", "16384 x 576 x 576", "16384 x 3072 x 576", "16384 x 576 x 1536", "32768 x 2816 x 2048", "4096 x 4096 x 4096"):
    LINES += [f"cuda {what} {shape}" for what in ("forward", "dx", "dw")]
LINES += [f"cuda decode {shape}" for shape in (
    "64 x 960 x 576", "64 x 576 x 576", "64 x 3072 x 576", "64 x 576 x 1536", "64 x 49152 x 576", "1024 x 960 x 576", "1024 x 3072 x 576", "1024 x 576 x 1536",
    "1024 x 49152 x 576", "8 x 102400 x 2048", "256 x 102400 x 2048")]
LINES += [f"cuda grouped decode 64 experts, {shape}" for shape in ("384 rows, 2816 x 2048", "1536 rows, 2816 x 2048", "1536 rows, 2048 x 1408")]
for shape in ("64 experts, 32768 rows, 2816 x 2048", "64 experts, 32768 rows, 2048 x 1408", "64 experts, 98304 rows, 2816 x 2048",
              "64 experts, 98304 rows, 2048 x 1408", "16 experts, 32768 rows, 768 x 2048"):
    LINES += [f"cuda grouped {what} {shape}" for what in ("forward", "dx", "dw", "dw in bf16", "dw =", "dw in bf16 =")]
LINES += [f"cuda attention decode {shape}" for shape in (
    "MLA 16 heads, 128 x 4096", "MLA 16 heads, 256 x 1024", "MLA 16 heads, 64 x 1024", "MLA 16 heads, 1024 x 1024", "MLA 16 heads, 16 x 4096",
    "MLA 16 heads, 4 x 8192", "MLA 128 heads, 64 x 4096", "9/3 x 64, 1024 x 257", "9/3 x 64, 64 x 257", "32/8 x 128, 256 x 1024", "32/8 x 128, 8 x 8192",
    "MLA 16 heads, 256 x 1024, 8 share 960", "9/3 x 64, 1024 x 257, 8 share 128", "32/8 x 128, 256 x 1024, 8 share 512")]
for shape in ("9/3 x 64, 32 x 512", "16 x 64, 16 x 1024", "16 x 128, 16 x 1024", "16 x 128, 4 x 4096", "16 x 192/128, 16 x 1024", "16 x 192/128, 4 x 4096"):
    LINES += [f"cuda attention {what} {shape}" for what in ("training", "gradients")]
LINES += [f"cuda attention training MLA 16 heads, {shape}" for shape in ("16 x 1024", "4 x 4096")]
for shape in ("16384 x 31", "64 x 49152", "1024 x 49152", "64 x 151936", "1024 x 49152, top_k 50", "64 x 151936, top_k 50", "1024 x 49152, top_p 0.95",
              "64 x 151936, top_p 0.95"):
    LINES += [f"cuda {what} {shape}" for what in ("sample", "logprobs", "logprobs gradient")]


def parse(lines):
    """[(name, microseconds, what of its bound)] of grouper's lines, in their order."""
    found = []
    for line in lines:
        match = re.match(r"(?:\d+ \| )?(cuda \S.*?)\s+" + NUMBER + r" us\b(.*)", line)
        if match:
            found.append((match.group(1), float(match.group(2).replace(",", "")), " ".join(match.group(3).split())))
    return found


def family(name):
    """A name's words before its sizes."""
    return re.split(r"\s+(?:MLA\b|of\b|\d)", name.removeprefix("cuda "))[0]


def answer(pipe, tiny):
    """A process of torch's. For each (name, first way) that comes: (microseconds, way) of each way as it is timed, then a dict."""
    warnings.filterwarnings("ignore")  # attention says at length which of its ways do not apply
    bench = Bench(tiny)
    bench.tell = lambda us, way: pipe.send((us, way))
    if bench.cuda:
        torch.zeros(1, device=bench.device)  # the GPU's context, while another process may still be at work
    while not bench.spoiled:
        name, bench.first_way = pipe.recv()
        function, groups_of = find(name)
        end = {"next": None, "found": None}
        try:
            end["found"] = function(bench, *groups_of)
        except Spoiled as error:
            end["next"] = error.next_way
        except Exception as error:  # noqa: BLE001
            end["found"] = None, short(error)
        bench.settle()
        pipe.send({**end, "spoiled": bench.spoiled})


class Torch:
    """Asks a process of its own, so that what torch does not recover from (a recording that failed, a GPU that answers with errors, a way that
    takes too long) costs one way of a line at most."""

    def __init__(self, tiny):
        self.tiny, self.process, self.pipe = tiny, None, None
        self.next = None  # (process, pipe) that has imported torch, or does so, while another one works

    def time(self, name, seconds):
        """(microseconds or None, how) of the fastest way."""
        ways, first, how = [], 0, None
        until = time.monotonic() + seconds
        while first is not None:
            if self.process is None:
                self._start()
                until += 20  # it imports torch
            try:
                self.pipe.send((name, first))
                while True:
                    if not self.pipe.poll(max(0, until - time.monotonic())):
                        self.close()
                        return self._fastest(ways, "took too long")
                    said = self.pipe.recv()
                    if isinstance(said, dict):
                        break
                    ways.append(said)
            except (EOFError, OSError):
                self.close()
                return self._fastest(ways, "torch's process died")
            except BaseException:  # an answer may still come
                self.close()
                raise
            if said["spoiled"]:
                self.close()
            first = said["next"]
            if said["found"] is not None:
                us, how = said["found"]
                ways += [(us, how)] if us is not None else []
        return self._fastest(ways[::-1], how)  # of equals the last, whose name is the whole one

    @staticmethod
    def _fastest(ways, how):
        return min(ways, key=lambda way: way[0]) if ways else (None, how)

    def _spawn(self):
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=answer, args=(theirs, self.tiny), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _start(self):
        self.process, self.pipe = self.next or self._spawn()
        self.next = self._spawn()

    @staticmethod
    def _end(process, pipe):
        process.kill()
        process.join()
        pipe.close()

    def close(self):
        """Of the process that works."""
        if self.process is not None:
            self._end(self.process, self.pipe)
            self.process = None

    def end(self):
        self.close()
        if self.next is not None:
            self._end(*self.next)
            self.next = None


def compare(report, torch_, ours, pairs):
    """Prints a line for each of `ours`, and leaves (name, grouper's, torch's) in `pairs` by family."""
    for name, us, rate in ours:
        theirs, how = None, "no counterpart"
        if find(name)[0] is not None:
            how = "no time left"
            if report.left() > 2:
                with report.part(name, reserve=1):
                    theirs, how = torch_.time(name, 40)
        ratio = theirs / us if theirs and us else None
        number = lambda x: "-" if x is None else f"{x:.1f}"  # noqa: E731
        report.say(f"{name:66} {number(us):>10} {rate:36} {number(theirs):>10} {'-' if ratio is None else f'{ratio:.2f}':>6}  {how}")
        pairs.setdefault(family(name), []).append((name, us, theirs))


def summarize(report, pairs):
    without = [name for lines in pairs.values() for name, us, theirs in lines if us and not theirs]
    for title, lines in pairs.items():
        both = [(name, us, theirs) for name, us, theirs in lines if us and theirs]
        if both:
            ratios = sorted((theirs / us, name) for name, us, theirs in both)
            ends = [f"{r:.2f} ({line.removeprefix('cuda ' + title).strip()})" for r, line in (ratios[0], ratios[-1])]
            how = f"{len(both)} lines; {ends[0]} to {ends[1]}" if len(both) > 1 else ""
            mean = math.exp(statistics.fmean(math.log(r) for r, _ in ratios))
            report.rows.append((title, f"{sum(p[1] for p in both):,.0f} us", f"{sum(p[2] for p in both):,.0f} us", f"{mean:.2f}", how))
        elif any(us or theirs for _, us, theirs in lines):
            one = 1 if any(us for _, us, _ in lines) else 2
            total = f"{sum(p[one] or 0 for p in lines):,.0f} us"
            report.rows.append((title, total if one == 1 else "-", total if one == 2 else "-", "-", ""))
    report.environment += "; sums of lines that both have, geometric means of their ratios (torch's time / grouper's)"
    if without:
        report.skip(f"torch for {len(without)} of grouper's lines", ", ".join(n.removeprefix("cuda ") for n in without[:6]) + (" ..." if len(without) > 6 else ""))


def run(args, report):
    mine = parse(report.grouper("kernels", "--filter", args.filter, seconds=args.seconds * 0.6))
    ours = list(mine)
    if not mine:
        ours = [(name, None, "") for name in LINES if args.filter in name]
    report.say(f"{len(mine)} lines of grouper's\n{'':66} {'grouper us':>10} {'':36} {'torch us':>10} {'ratio':>6}  torch's way")
    pairs, torch_ = {}, Torch(args.tiny)
    try:
        compare(report, torch_, ours, pairs)
    except OutOfTime:
        report.skip("the rest", "no time left")
    finally:
        torch_.end()
        summarize(report, pairs)

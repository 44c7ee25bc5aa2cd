"""gpu: full shapes with random weights (speed does not depend on values) in bf16, transformers and grouper one after another on one card.

Grouper runs first, with the GPU to itself. Of transformers every form that a user might choose is timed (loss, micro-batch, experts' kernels) and the
fastest is the reference, named in the table. Completions are sampled at temperature 1, without filters and without an end; transformers' prompts are not
shared by a group, because generate cannot.
"""
import contextlib
import gc
import json
import math
import os
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F

from bench_reference.report import ROOT, OutOfTime, last_number, rollout_rates, short

TINY = {
    "smollm2_135m": {"vocab_size": 128, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1},
    "deepseek_v2_lite": {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 3,
                         "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 8, "num_experts_per_tok": 2, "kv_lora_rank": 32,
                         "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16},
}


class Shapes:
    """A model's config, and where both sides run it."""

    def __init__(self, name, args):
        self.tiny, self.device = args.tiny, torch.device("cpu" if args.tiny else "cuda")
        self.path = os.path.join(ROOT, "recipes", "shapes", name + ".json")
        self.config = json.load(open(self.path))
        if args.tiny:
            self.config.update(TINY[name], bos_token_id=1, eos_token_id=2)
            self.folder = tempfile.TemporaryDirectory(prefix="bench_reference")
            self.path = os.path.join(self.folder.name, name + ".json")
            with open(self.path, "w") as out:
                json.dump(self.config, out)
        self.on = ["--model", self.path, "--device", "cpu" if args.tiny else "cuda"]

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def free(self):
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def tokens(self, batch, length):
        return torch.randint(3, self.config["vocab_size"], (batch, length), device=self.device)

    def build(self, dtype=torch.bfloat16):
        """transformers' model, made on the GPU: nothing of it ever lies in the host's memory."""
        from transformers import AutoConfig, AutoModelForCausalLM
        config = AutoConfig.for_model(**self.config)
        with self.device:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        with torch.no_grad():
            for p in model.parameters():  # whatever transformers leaves uninitialised would make NaN of the logits, and sampling would stop
                p.normal_(0, 1 / math.sqrt(p.shape[-1])) if p.dim() > 1 else p.fill_(1)
        model.generation_config.eos_token_id = None
        self.synchronize()
        return model.to(self.device)


class Generation:
    """One call of generate: seconds in all, and to the first token."""

    def __init__(self, shapes, model, batch, prompt, new, prefill_chunk=None, cache=None):
        from transformers import StoppingCriteria, StoppingCriteriaList
        first = []

        class FirstToken(StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                if not first:
                    shapes.synchronize()
                    first.append(time.perf_counter())
                return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        options = {"prefill_chunk_size": prefill_chunk, "cache_implementation": cache}
        options = {name: value for name, value in options.items() if value is not None}
        model.eval()
        ids = shapes.tokens(batch, prompt)
        shapes.synchronize()
        start = time.perf_counter()
        self.ids = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
                                  min_new_tokens=None, pad_token_id=2, stopping_criteria=StoppingCriteriaList([FirstToken()]), **options)
        shapes.synchronize()
        self.seconds = time.perf_counter() - start
        self.first = first[0] - start
        if self.ids.shape[1] != prompt + new:
            raise RuntimeError(f"generate made {self.ids.shape[1] - prompt} tokens instead of {new}")


class Generations:
    """At least two calls where one takes less than 40 s and time is left; more while they are short."""

    def __init__(self, report, batch, new, once, reserve=0):
        self.runs = []
        while len(self.runs) < 5:
            self.runs.append(once())
            last, total = self.runs[-1].seconds, sum(r.seconds for r in self.runs)
            if last > 40 or report.left() - reserve < 1.2 * last or (len(self.runs) >= 2 and total > 8):
                break
        self.seconds = statistics.median(r.seconds for r in self.runs)
        self.rate = batch * new / self.seconds
        self.decoding = batch * (new - 1) / statistics.median(r.seconds - r.first for r in self.runs)
        low, high = min(r.seconds for r in self.runs), max(r.seconds for r in self.runs)
        self.how = f"{len(self.runs)} runs of {low:.1f} to {high:.1f} s" if len(self.runs) > 1 else f"one run of {low:.1f} s"


def update_seconds(shapes, ids, micro, loss, model=None, opt=None, most=4):
    """The median of steps over `ids` in micro-batches; with an optimizer, clipping and its step are in it."""
    def step():
        shapes.synchronize()
        start = time.perf_counter()
        for part in ids.split(micro):
            (loss(part) * (len(part) / len(ids))).backward()
        if opt is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
        shapes.synchronize()
        seconds = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
        return seconds

    model.train()
    try:
        step()
        times = [step()]
        while len(times) < most and sum(times) < 6:
            times.append(step())
        return statistics.median(times)
    finally:
        model.zero_grad(set_to_none=True)
        shapes.free()


# Losses of one micro-batch.

def labels_loss(model):
    return lambda part: model(part, labels=part, use_cache=False).loss


def narrow_loss(model):
    return lambda part: F.cross_entropy(model(part, use_cache=False).logits[:, :-1].flatten(0, 1), part[:, 1:].flatten())


def signs_of(part):
    sign = torch.ones(part.shape[0], 1, device=part.device)
    sign[::2] = -1
    return sign


def logprob_loss(model, first=1):
    """Float32 log-probabilities of tokens [first, end), weighted as advantages would."""
    def loss(part):
        logits = model(part, use_cache=False).logits[:, first - 1:-1].float()
        logp = torch.gather(logits.log_softmax(-1), -1, part[:, first:, None]).squeeze(-1)
        return (signs_of(part) * logp).mean()
    return loss


def lean_logprob_loss(model, first, wide):
    """The same from logits of these tokens alone, by cross_entropy, in float32 or in bf16."""
    def loss(part):
        logits = model(part, use_cache=False, logits_to_keep=part.shape[1] - first + 1).logits[:, :-1]
        if wide:
            logits = logits.float()
        logp = -F.cross_entropy(logits.flatten(0, 1), part[:, first:].flatten(), reduction="none").view(part.shape[0], -1)
        return (signs_of(part) * logp).mean()
    return loss


def fastest(report, shapes, name, forms, seconds, reserve=0):
    """forms: (how, run) with run() in seconds. Returns (seconds, how) of the fastest, (None, "") where none ran, and all of them."""
    times = {}
    for how, run in forms:
        if report.left() - reserve < 2:
            report.skip(f"{name}, from {how} on", "no time left")
            break
        with report.part(f"{name}, {how}", seconds=seconds, reserve=reserve):
            times[how] = run()
            report.say(f"  {name}, transformers, {how}: {times[how]:.3f} s")
        shapes.free()
    best = min(times, key=times.get, default="")
    return times.get(best), best, times


def smollm2(args, report):
    shapes = Shapes("smollm2_135m", args)
    batches, prompt, new = ((64, 1024), 128, 256) if not args.tiny else ((2, 4), 8, 6)
    sequences, length = (32, 512) if not args.tiny else (4, 16)
    samples = 256 if not args.tiny else 4
    group = "8" if not args.tiny else "2"
    completions = ["--group", group, "--prompt", str(prompt), "--new-tokens", str(new)]
    rollout = rollout_rates(report.grouper("rollout", *shapes.on, "--batch", ",".join(map(str, batches)), *completions), batches)
    train = last_number("tok/s", report.grouper("train", *shapes.on, "--batch", str(sequences), "--length", str(length)))
    step = last_number("ms a step", report.grouper("step", *shapes.on, "--batch", str(samples), *completions))

    model = None
    with report.part("SmolLM2 in transformers"):
        model = shapes.build()
        Generation(shapes, model, 8, prompt, 8)
    tokens = sequences * length
    name = f"SmolLM2 training, {sequences} x {length}"
    ours_how = f"float32 log-probabilities, micro-batches of {sequences // 4}"
    times, best, how = {}, None, ""
    if model is not None:
        opt = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
        ids = shapes.tokens(sequences, length)
        timed = lambda micro, loss, model=model, opt=opt: lambda: update_seconds(shapes, ids, micro, loss, model, opt)  # noqa: E731
        forms = [(ours_how, timed(sequences // 4, logprob_loss(model)))]
        for micro in (sequences, sequences // 2, sequences // 4):
            forms.append((f"labels, micro-batches of {micro}", timed(micro, labels_loss(model))))
            forms.append((f"bf16 logits, micro-batches of {micro}", timed(micro, narrow_loss(model))))

        def masters():
            wide = shapes.build(torch.float32)

            def loss(part):
                with torch.autocast(shapes.device.type, dtype=torch.bfloat16):
                    return wide(part, labels=part, use_cache=False).loss
            return update_seconds(shapes, ids, sequences // 2, loss, wide, torch.optim.AdamW(wide.parameters(), lr=1e-9, fused=True))
        forms.append((f"float32 masters under autocast, labels, micro-batches of {sequences // 2}", masters))
        if args.compile:
            compiled = torch.compile(model)
            for micro in (sequences, sequences // 2):
                forms.append((f"torch.compile, labels, micro-batches of {micro}", timed(micro, labels_loss(compiled))))
        best, how, times = fastest(report, shapes, name, forms, seconds=120 if args.compile else 30)
    report.rates(name, train, tokens / best if best else None, how="fastest: " + how if how else "")
    form = times.get(ours_how)
    report.rates(name + ", our form", train, tokens / form if form else None, how=ours_how)

    for batch in batches:
        theirs = None
        if model is not None:
            with report.part(f"SmolLM2 generation, batch {batch}, transformers", reserve=5):
                theirs = Generations(report, batch, new, lambda: Generation(shapes, model, batch, prompt, new), reserve=5)
            shapes.free()
            if args.compile:
                with report.part(f"SmolLM2 generation, batch {batch}, transformers, static cache", seconds=90, reserve=5):
                    Generation(shapes, model, batch, prompt, new, cache="static")  # compiles it
                    static = Generations(report, batch, new, lambda: Generation(shapes, model, batch, prompt, new, cache="static"), reserve=5)
                    static.how += ", static cache (compiled)"
                    theirs = max([static] + ([theirs] if theirs else []), key=lambda one: one.rate)
                shapes.free()
        ours, decoding = rollout.get(batch, (None, None))
        report.rates(f"SmolLM2 generation, batch {batch}, {prompt} + {new}", ours, theirs and theirs.rate, how=theirs.how if theirs else "")
        report.rates(f"SmolLM2 decoding alone, batch {batch}", decoding, theirs and theirs.decoding)

    theirs, how = None, ""
    if model is not None:
        with report.part("a GRPO step on SmolLM2, transformers", reserve=5):
            generated = Generations(report, samples, new, lambda: Generation(shapes, model, samples, prompt, new), reserve=15)
            out = generated.runs[-1].ids
            timed = lambda micro, loss: lambda: update_seconds(shapes, out, micro, loss, model, opt, most=3)  # noqa: E731
            eighth = samples // 8 or 1
            forms = [(f"float32 log-probabilities, micro-batches of {eighth}", timed(eighth, logprob_loss(model, prompt)))]
            for micro in (eighth, 2 * eighth):
                for wide in (True, False):
                    kind = "float32" if wide else "bf16"
                    forms.append((f"cross_entropy in {kind} of the completions, micro-batches of {micro}", timed(micro, lean_logprob_loss(model, prompt, wide))))
            update, update_how, _ = fastest(report, shapes, "update of a GRPO step", forms, seconds=20, reserve=5)
            if update is not None:
                theirs, how = generated.seconds + update, f"generate {generated.seconds:.2f} s, {generated.how}; update {update:.3f} s, {update_how}"
    report.times(f"SmolLM2 GRPO step, {samples // int(group)} x {group} x {new}", step / 1e3 if step else None, theirs, how)


def expandable_segments(shapes):
    """Less of 80 GB is lost between blocks; kept only where the driver can do it."""
    if shapes.device.type != "cuda":
        return
    switch = getattr(torch._C, "_accelerator_setAllocatorSettings", None) or getattr(torch.cuda.memory, "_set_allocator_settings", None)
    if switch is None:
        return
    try:
        switch("expandable_segments:True")
        torch.empty(1 << 26, device=shapes.device)
        shapes.free()
    except Exception:  # noqa: BLE001
        with contextlib.suppress(Exception):
            switch("expandable_segments:False")


def choose_experts(report, shapes, model, batch, prompt, new):
    """The experts' implementation that would generate fastest, judged by few tokens."""
    choices = ["grouped_mm", "batched_mm", "eager"] if shapes.tiny else ["grouped_mm", "eager"]
    if not hasattr(model, "set_experts_implementation"):
        return "this version's only experts"
    seconds = {}
    for choice in choices:
        with report.part(f"V2-Lite, experts by {choice}", seconds=60):
            model.set_experts_implementation(choice)
            Generation(shapes, model, batch, prompt, 2)
            few = Generation(shapes, model, batch, prompt, 6)
            seconds[choice] = few.first + (few.seconds - few.first) / 5 * (new - 1)
            report.say(f"  V2-Lite, experts by {choice}: {few.first:.2f} s to the first token, {(few.seconds - few.first) / 5:.3f} s each later one")
        shapes.free()
    best = min(seconds, key=seconds.get, default=None)
    if best is None:
        raise RuntimeError("no implementation of the experts ran")
    model.set_experts_implementation(best)
    return f"experts by {best}"


def generation_that_fits(report, shapes, model, batch, prompt, new):
    """(once, size, how): a call of generate with as many of the batch's sequences as the memory takes; the rest would follow after it."""
    tried = []
    for size, chunk in ((batch, None), (batch, prompt // 4), (batch // 2, None), (batch // 2, prompt // 4), (batch // 4, prompt // 4)):
        if size < 1:
            continue
        fits = False
        with contextlib.suppress(getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)):
            Generation(shapes, model, size, prompt, 3, chunk)
            fits = True
        shapes.free()
        if not fits:
            tried.append(f"{size}{f' in chunks of {chunk}' if chunk else ''}")
            continue
        how = "" if size == batch else f"{batch // size} times {size}"
        if chunk is not None:
            how += f"{', ' if how else ''}prompts in chunks of {chunk}"
        return (lambda: Generation(shapes, model, size, prompt, new, chunk)), size, how
    raise RuntimeError("does not fit: " + ", ".join(tried))


def v2lite(args, report):
    shapes = Shapes("deepseek_v2_lite", args)
    batches, prompt, new = ((64, 256), 960, 64) if not args.tiny else ((2, 4), 16, 6)
    sequences, length = (8, 512) if not args.tiny else (4, 16)
    group = "8" if not args.tiny else "2"
    rollout = rollout_rates(report.grouper("rollout", *shapes.on, "--batch", ",".join(map(str, batches)), "--group", group, "--prompt", str(prompt),
                                           "--new-tokens", str(new)), batches)
    narrow = [] if args.tiny else ["--gradients", "bfloat16"]  # a GPU's
    train = last_number("tok/s", report.grouper("train", *shapes.on, "--batch", str(sequences), "--length", str(length), "--batch-tokens",
                                                str(sequences * length), "--no-optimizer", *narrow))

    model, experts = None, ""
    with report.part("V2-Lite in transformers"):
        try:
            from transformers import DeepseekV2ForCausalLM  # noqa: F401
        except ImportError as error:
            import transformers
            raise RuntimeError(f"transformers {transformers.__version__} has no DeepseekV2ForCausalLM") from error
        expandable_segments(shapes)
        started = time.perf_counter()
        model = shapes.build()
        report.say(f"  V2-Lite: {sum(p.numel() for p in model.parameters()) / 1e9:.2f}B parameters made in {time.perf_counter() - started:.1f} s")
        experts = choose_experts(report, shapes, model, batches[0], prompt, new)

    # Forward and backward first: seconds, where generation takes minutes.
    name = f"V2-Lite forward and backward, {sequences} x {length}, bf16 gradients"
    best, how = None, ""
    if model is not None:
        ids = shapes.tokens(sequences, length)
        forms = []
        for checkpointed in (False, True):
            for micro in (sequences, sequences // 2, sequences // 4):
                for kind, loss in (("labels", labels_loss(model)), ("bf16 logits", narrow_loss(model))):
                    if checkpointed and (micro != sequences or kind != "labels"):
                        continue
                    if micro == sequences // 4 and kind == "labels":
                        continue

                    def run(micro=micro, loss=loss, checkpointed=checkpointed):
                        if checkpointed:
                            model.gradient_checkpointing_enable()
                        try:
                            return update_seconds(shapes, ids, micro, loss, model)
                        finally:
                            if checkpointed:
                                model.gradient_checkpointing_disable()
                    forms.append((f"{kind}, micro-batches of {micro}{', checkpointed' if checkpointed else ''}", run))
        best, how, _ = fastest(report, shapes, name, forms, seconds=25)
    report.rates(name, train, sequences * length / best if best else None, how=f"fastest: {how}; {experts}" if how else "")

    for batch in batches:
        theirs, how = None, ""
        if model is not None:
            with report.part(f"V2-Lite generation, batch {batch}, transformers", reserve=3):
                once, size, how = generation_that_fits(report, shapes, model, batch, prompt, new)
                theirs = Generations(report, size, new, once, reserve=3)
                how = "; ".join(filter(None, [how, experts, theirs.how]))
            shapes.free()
        ours, decoding = rollout.get(batch, (None, None))
        report.rates(f"V2-Lite generation, batch {batch}, {prompt} + {new}", ours, theirs and theirs.rate, how=how if theirs else "")
        report.rates(f"V2-Lite decoding alone, batch {batch}", decoding, theirs and theirs.decoding)


def run(args, report):
    try:
        import transformers
        report.environment += f", transformers {transformers.__version__}"
        transformers.logging.set_verbosity_error()
    except ImportError as error:
        report.skip("transformers", short(error))  # grouper's own figures are printed all the same
    chosen = [part for name, part in (("smollm2", smollm2), ("v2lite", v2lite)) if args.only in (None, name)]
    for part in chosen:
        report.held = args.seconds * 0.5 if part is not chosen[-1] else 0
        try:
            part(args, report)
        except (Exception, OutOfTime) as error:  # noqa: BLE001  (its parts note their own)
            report.skip(f"the rest of {part.__name__}", short(error))
        gc.collect()
        if not args.tiny:
            torch.cuda.empty_cache()

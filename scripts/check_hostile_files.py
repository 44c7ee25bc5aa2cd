"""Judges a few hundred model files with `grouper inspect`: lies of every kind must be refused, unusual but legal files accepted.

    python3 scripts/check_hostile_files.py [--binary build/grouper] [--keep DIR] [NAME ...]

Each run is held to 1 s and 256 MB (2 s and no limit of memory with --sanitized), is repeated under `ulimit -v` of 1 GB, may not end by a
signal, and a refusal must name what the case says (the file, and the field or tensor). Prints what is wrong, and one line at the end.
"""
import argparse, copy, json, os, resource, shutil, struct, subprocess, sys, tempfile, time

VOCAB, HIDDEN, LAYERS, HEADS, KV, WIDTH, INNER = 320, 16, 2, 4, 2, 4, 24


def byte_alphabet():
    keep = list(range(ord("!"), ord("~") + 1)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    chars, extra = {}, 0
    for b in range(256):
        if b in keep:
            chars[b] = chr(b)
        else:
            chars[b] = chr(256 + extra)
            extra += 1
    return [chars[b] for b in range(256)]


def tokenizer():
    alphabet = byte_alphabet()
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = [["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"]]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    added = [{"id": len(vocab) + i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, c in enumerate(["<s>", "</s>", "<pad>"])]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges},
    }


def tokenizer_config():
    return {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": 64, "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"}


def config():
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": WIDTH, "hidden_act": "silu",
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32",
            "bos_token_id": 260, "eos_token_id": 261}


def qwen3_moe_config():
    c = config()
    c.update({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
              "moe_intermediate_size": 8, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []})
    return c


def deepseek_config(v3):
    c = config()
    del c["head_dim"]
    c.update({"architectures": ["DeepseekV3ForCausalLM" if v3 else "DeepseekV2ForCausalLM"], "model_type": "deepseek_v3" if v3 else "deepseek_v2",
              "num_key_value_heads": HEADS, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
              "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_shared_experts": 1, "first_k_dense_replace": 1,
              "moe_layer_freq": 1, "scoring_func": "sigmoid" if v3 else "softmax", "topk_method": "noaux_tc" if v3 else "greedy",
              "norm_topk_prob": v3, "n_group": 2 if v3 else 1, "topk_group": 1, "routed_scaling_factor": 1.0, "attention_bias": False})
    return c


def shapes(c):
    d, v = c["hidden_size"], c["vocab_size"]
    out = {"model.embed_tokens.weight": [v, d], "model.norm.weight": [d]}
    if not c.get("tie_word_embeddings"):
        out["lm_head.weight"] = [v, d]
    arch, h = c["architectures"][0], c["num_attention_heads"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = [d]
        if "Deepseek" in arch:
            nope, turn, value, r, q = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"))
            if q:
                out.update({p + "self_attn.q_a_proj.weight": [q, d], p + "self_attn.q_a_layernorm.weight": [q],
                            p + "self_attn.q_b_proj.weight": [h * (nope + turn), q]})
            else:
                out[p + "self_attn.q_proj.weight"] = [h * (nope + turn), d]
            out.update({p + "self_attn.kv_a_proj_with_mqa.weight": [r + turn, d], p + "self_attn.kv_a_layernorm.weight": [r],
                        p + "self_attn.kv_b_proj.weight": [h * (nope + value), r], p + "self_attn.o_proj.weight": [d, h * value]})
        else:
            w, kv = c["head_dim"], c["num_key_value_heads"]
            for name, rows in (("q", h), ("k", kv), ("v", kv)):
                out[p + f"self_attn.{name}_proj.weight"] = [rows * w, d]
                if arch == "Qwen2ForCausalLM":
                    out[p + f"self_attn.{name}_proj.bias"] = [rows * w]
            out[p + "self_attn.o_proj.weight"] = [d, h * w]
            if "Qwen3" in arch:
                out[p + "self_attn.q_norm.weight"] = out[p + "self_attn.k_norm.weight"] = [w]
        experts = c.get("num_experts") or c.get("n_routed_experts")
        if experts and i >= c.get("first_k_dense_replace", 0):
            m = c["moe_intermediate_size"]
            out[p + "mlp.gate.weight"] = [experts, d]
            if "V3" in arch:
                out[p + "mlp.gate.e_score_correction_bias"] = [experts]
            for e in range(experts):
                out.update({p + f"mlp.experts.{e}.gate_proj.weight": [m, d], p + f"mlp.experts.{e}.up_proj.weight": [m, d],
                            p + f"mlp.experts.{e}.down_proj.weight": [d, m]})
            if c.get("n_shared_experts"):
                s = c["n_shared_experts"] * m
                out.update({p + "mlp.shared_experts.gate_proj.weight": [s, d], p + "mlp.shared_experts.up_proj.weight": [s, d],
                            p + "mlp.shared_experts.down_proj.weight": [d, s]})
        else:
            n = c["intermediate_size"]
            out.update({p + "mlp.gate_proj.weight": [n, d], p + "mlp.up_proj.weight": [n, d], p + "mlp.down_proj.weight": [d, n]})
    return out


def numbers(name, count):
    state, values = sum(name.encode()) * 7919 + 1, []
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        values.append((state / 0x7FFFFFFF - 0.5) * 0.2)
    return [1.0] * count if name.endswith("norm.weight") else values


_cache = {}


def tensors(c):
    key = json.dumps(c, sort_keys=True)
    if key not in _cache:
        out = {}
        for name, shape in shapes(c).items():
            n = 1
            for s in shape:
                n *= s
            out[name] = ["F32", shape, struct.pack(f"<{n}f", *numbers(name, n))]
        _cache[key] = out
    return copy.deepcopy(_cache[key])


def safetensors(t, metadata=None, pad=0, header=None, length=None, tail=b"", edit=None):
    """Bytes of a file; `edit` changes the header as an object, `header` replaces it as bytes, `length` the first eight bytes."""
    if header is None:
        fields, at = {}, 0
        if metadata is not None:
            fields["__metadata__"] = metadata
        for name, (dtype, shape, data) in t.items():
            fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        if edit:
            edit(fields)
        header = json.dumps(fields).encode()
    header += b" " * pad
    return struct.pack("<Q", len(header) if length is None else length) + header + b"".join(d for _, _, d in t.values()) + tail


class World:
    """A model directory in the making; `write` puts it down."""

    def __init__(self, c=None):
        self.config, self.tokenizer, self.tokenizer_config = c or config(), tokenizer(), tokenizer_config()
        self.tensors = tensors(self.config)
        self.generation = None
        self.raw = {}  # file name -> bytes instead of what the fields say; None: no file
        self.after = None  # called with the directory

    def write(self, path):
        os.makedirs(path)
        files = {"config.json": json.dumps(self.config), "tokenizer.json": json.dumps(self.tokenizer),
                 "tokenizer_config.json": json.dumps(self.tokenizer_config), "model.safetensors": None}
        if self.generation is not None:
            files["generation_config.json"] = json.dumps(self.generation)
        if "model.safetensors" not in self.raw and "model.safetensors.index.json" not in self.raw:
            files["model.safetensors"] = safetensors(self.tensors)
        files.update(self.raw)
        for name, data in files.items():
            if data is None:
                continue
            target = os.path.join(path, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as f:
                f.write(data.encode() if isinstance(data, str) else data)
        if self.after:
            self.after(path)
        return path


CASES = []  # (name, make(path) -> what to inspect, legal, [texts that the refusal must have])


def case(name, make, legal=False, names=()):
    CASES.append((name, make, legal, list(names)))


def directory(name, change, legal=False, names=(), base=None):
    def make(path):
        w = World(base() if base else None)
        change(w)
        return w.write(path)
    case(name, make, legal, names)


# --- config.json -------------------------------------------------------------------------------------------------------------------

def config_cases():
    def put(key, value, legal=False, base=None, names=None, tag=""):
        def change(w):
            if value is REMOVE:
                w.config.pop(key, None)
            else:
                w.config[key] = value
        label = "removed" if value is REMOVE else json.dumps(value)[:40].replace("/", "_")
        directory(f"config {tag}{key}={label}", change, legal, names if names is not None else ["config.json", key], base)

    REMOVE = object()
    sizes = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]
    for key in sizes:
        for value in (0, -1, 2.5, "16", None, True, [16], {}, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 64, 10 ** 30, -(1 << 63)):
            put(key, value, names=["config.json"])
        put(key, REMOVE)
    for value in (0, -2, 3, 5, 1 << 40, "2", 1.5):
        put("num_key_value_heads", value)
    for value in (0, -4, 3, 1, 1 << 20, 1 << 50, "4", 4.5):
        put("head_dim", value)
    put("head_dim", 8, names=["q_proj"])
    for value in (0, -1e-5, "1e-5", 1e40, None if False else [], True):
        put("rms_norm_eps", value)
    for value in (0, -1, "x", 1e40, []):
        put("rope_theta", value)
    for value in ("gelu", "relu", "gelu_new", "swish_glu", 3, {"silu": 1}):
        put("hidden_act", value)
    put("tie_word_embeddings", "yes")
    put("tie_word_embeddings", 1)
    put("attention_bias", True, names=["q_proj.bias"])
    put("attention_bias", "true")
    put("mlp_bias", True, names=["gate_proj.bias"])
    for value in ([], ["NoSuchModel"], "LlamaForCausalLM", ["LlamaForCausalLM", "Qwen2ForCausalLM"], [3], None, REMOVE,
                  ["LlamaForSequenceClassification"], ["MixtralForCausalLM"], ["Qwen2MoeForCausalLM"]):
        put("architectures", value)
    for value in (VOCAB, 1 << 31, 1 << 63, "261", [261, "x"], [261, VOCAB], 1.5, {}):
        put("eos_token_id", value)
    put("bos_token_id", 1 << 40)
    put("bos_token_id", VOCAB)
    put("pad_token_id", VOCAB + 5)
    for value in (32, 0.5):
        put("partial_rotary_factor", value)
    put("sliding_window", 32)
    put("layer_types", ["sliding_attention", "full_attention"])
    put("layer_types", ["full_attention"])
    put("layer_types", "full_attention")
    for value in ({"type": "dynamic", "factor": 2.0}, {"rope_type": "longrope", "factor": 2.0}, {"rope_type": "su"}, {"rope_type": "mrope"},
                  {"rope_type": "linear"}, {"rope_type": "linear", "factor": 0}, {"rope_type": "linear", "factor": -1}, {"rope_type": "linear", "factor": "2"},
                  {"rope_type": "llama3", "factor": 8.0}, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 32},
                  {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 0},
                  {"rope_type": "yarn", "factor": 0}, {"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}, {"rope_type": 3}, [], "linear", 3, True,
                  {"rope_type": "default", "partial_rotary_factor": 0.5}):
        put("rope_scaling", value, names=["config.json", "rope_scaling"])
    for value in ({"quant_method": "gptq", "bits": 4}, {"quant_method": "awq", "bits": 4}, {"quant_method": "bitsandbytes", "load_in_4bit": True},
                  {"quant_method": "compressed-tensors"}, {"quant_method": "fp8"}, {"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [8, 8]},
                  {"quant_method": "fp8", "weight_block_size": [8]}, {"quant_method": "fp8", "weight_block_size": [0, 8]},
                  {"quant_method": "fp8", "weight_block_size": ["a", "b"]}, {"quant_method": "fp8", "weight_block_size": [1 << 40, 1]}, [], "fp8",
                  {"quant_method": "hqq"}, {"quant_method": "mxfp4"}, {"quant_method": "quanto"}, {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}):
        put("quantization_config", value)
    put("compression_config", {"quant_method": "compressed-tensors"})
    for key, value in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0), ("query_pre_attn_scalar", 256), ("clip_qkv", 8.0),
                       ("attention_multiplier", 0.1), ("embedding_multiplier", 12.0), ("residual_multiplier", 0.2), ("logits_scaling", 8.0),
                       ("logit_scale", 0.06), ("scale_emb", 12), ("scale_depth", 1.4), ("use_parallel_residual", True), ("add_cross_attention", True),
                       ("is_encoder_decoder", True), ("no_rope_layers", [0, 1]), ("attention_chunk_size", 32), ("rope_local_base_freq", 1e4),
                       ("use_qk_norm", True), ("qk_layernorm", True), ("attn_output_gate", True), ("rope_interleaved", True)):
        put(key, value)
    for key, value in (("use_cache", False), ("torch_dtype", "bfloat16"), ("attention_dropout", 0.1), ("pretraining_tp", 1), ("initializer_range", 0.02),
                       ("my_own_field", {"a": [1, 2]}), ("_name_or_path", "/x/y"), ("sliding_window", None), ("rope_scaling", None), ("eos_token_id", [261, 260]),
                       ("eos_token_id", None), ("layer_types", ["full_attention", "full_attention"]), ("head_dim", None), ("quantization_config", None),
                       ("rope_scaling", {"rope_type": "default"}), ("rope_theta", 500000), ("num_key_value_heads", 2), ("auto_map", {"AutoModel": "x.Y"}),
                       ("partial_rotary_factor", 1.0), ("max_position_embeddings", 131072), ("pad_token_id", -1), ("transformers_version", "9.9")):
        put(key, value, legal=True, tag="legal ")
    # Qwen and DeepSeek
    qwen2 = lambda: {**config(), "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    qwen3 = lambda: {**config(), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    for base, tag in ((qwen2, "qwen2 "), (qwen3, "qwen3 "), (qwen3_moe_config, "qwen3moe ")):
        put("use_cache", True, True, base, tag=tag + "legal ")
        put("use_sliding_window", True, True, base, tag=tag + "no window ")
        directory(f"config {tag}sliding window", lambda w: w.config.update({"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}), False,
                  ["config.json", "use_sliding_window"], base)
        directory(f"config {tag}window off", lambda w: w.config.update({"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1}), True, [], base)
        put("attention_bias", "no", False, base, tag=tag)
    for key, values in {"num_experts": (0, -1, 5, 1 << 40, "4"), "num_experts_per_tok": (0, -1, 5, "2"), "moe_intermediate_size": (0, -8, 9, 1 << 50),
                        "decoder_sparse_step": (0, -1, 2), "mlp_only_layers": ([0], "0", [1 << 40])}.items():
        for value in values:
            put(key, value, False, qwen3_moe_config, names=["config.json"] if not (key, value) in (("num_experts", 5), ("moe_intermediate_size", 9), ("decoder_sparse_step", 2)) and value != [0] else ["mlp"], tag="qwen3moe ")
    for v3 in (True, False):
        base, tag = (lambda v3=v3: deepseek_config(v3)), "v3 " if v3 else "v2 "
        put("use_cache", True, True, base, tag=tag + "legal ")
        for key, values in {"kv_lora_rank": (0, -1, 1 << 40, 9), "q_lora_rank": (-1, 9, "8"), "qk_nope_head_dim": (0, 6), "qk_rope_head_dim": (0, 3, 6),
                            "v_head_dim": (0, 6), "n_routed_experts": (-4, 3, 5, 1 << 40), "num_experts_per_tok": (0, 5, -1), "n_shared_experts": (-1, 2),
                            "first_k_dense_replace": (-1, 0), "moe_intermediate_size": (0, 9)}.items():
            for value in values:
                put(key, value, False, base, names=["config.json" if value in (0, -1, -4, 1 << 40, "8", 3) and (key, value) not in (("first_k_dense_replace", 0), ("n_routed_experts", 3)) else ""], tag=tag)
        for key, value in (("moe_layer_freq", 2), ("scoring_func", "softmax" if v3 else "sigmoid"), ("topk_method", "other"), ("ep_size", 2),
                           ("num_key_value_heads", 2), ("n_group", 3), ("n_group", 0), ("topk_group", 3), ("topk_group", 0),
                           ("routed_scaling_factor", 0), ("routed_scaling_factor", -1), ("norm_topk_prob", "x"), ("num_nextn_predict_layers", -1),
                           ("num_nextn_predict_layers", "1"), ("index_topk", 2048)):
            if not v3 and key in ("n_group", "topk_group") and value in (3,):
                continue  # of no effect with greedy
            put(key, value, False, base, tag=tag)
    def mtp(w):
        w.config["num_nextn_predict_layers"] = 1
        for name, value in list(w.tensors.items()):
            if name.startswith("model.layers.1."):
                w.tensors[name.replace("layers.1.", "layers.2.")] = value
        w.tensors["model.layers.2.eh_proj.weight"] = ["F32", [2], b"\0" * 8]
    directory("config v3 legal mtp layers", mtp, True, [], lambda: deepseek_config(True))
    def mtp_unannounced(w):
        mtp(w)
        w.config["num_nextn_predict_layers"] = 0
    directory("config v3 mtp layers unannounced", mtp_unannounced, False, ["model.layers.2."], lambda: deepseek_config(True))
    # the text itself
    text = json.dumps(config())
    def raw(name, data, legal=False, names=("config.json",)):
        directory("config text " + name, lambda w: w.raw.update({"config.json": data}), legal, names)
    raw("empty", b"")
    raw("null", b"null")
    raw("array", b"[]")
    raw("number", b"3")
    raw("half", text[:len(text) // 2])
    raw("no brace", text[:-1])
    raw("trailing text", text + "x")
    raw("two objects", text + text)
    raw("duplicate key", text[:-1] + ', "vocab_size": 320}', names=("config.json", "vocab_size"))
    raw("duplicate key other", text[:-1] + ', "vocab_size": 321}', names=("config.json", "vocab_size"))
    raw("nested duplicate", text[:-1] + ', "x": {"a": 1, "a": 1}}')
    raw("deep arrays", text[:-1] + ', "x": ' + "[" * 100000 + "]" * 100000 + "}")
    raw("deep objects", text[:-1] + ', "x": ' + '{"a":' * 100000 + "1" + "}" * 100000 + "}")
    raw("depth 65", text[:-1] + ', "x": ' + "[" * 65 + "]" * 65 + "}")
    raw("depth 60", text[:-1] + ', "x": ' + "[" * 60 + "]" * 60 + "}", True)
    raw("bad utf-8", text[:-1].encode() + b', "x": "\xff\xfe"}')
    raw("bad utf-8 key", text[:-1].encode() + b', "\xc0\xaf": 1}')
    raw("lone surrogate", text[:-1] + ', "x": "\\ud800"}')
    raw("NaN", text.replace("10000.0", "NaN"))
    raw("Infinity", text.replace("10000.0", "Infinity"))
    raw("1e999", text.replace("10000.0", "1e999"))
    raw("comment", "// hello\n" + text)
    raw("trailing comma", text[:-1] + ",}")
    raw("utf-16", text.encode("utf-16"))
    raw("NUL", text[:-1].encode() + b"\0}")
    raw("large", text[:-1] + ', "x": "' + "a" * (8 << 20) + '"}')
    raw("spaces", " \n\t" + json.dumps(config(), indent=4) + "\n\n", True)
    raw("bom", b"\xef\xbb\xbf" + text.encode(), True)
    raw("escaped keys", text.replace('"vocab_size"', '"vocab\\u005fsize"'), True)
    directory("config missing", lambda w: w.raw.update({"config.json": None}), False, ["config.json"])
    def many(w):
        w.config["num_hidden_layers"] = 4096
        w.config["architectures"] = ["Qwen3MoeForCausalLM"]
        w.config.update({"num_experts": 4096, "hidden_size": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "moe_intermediate_size": 1,
                         "num_hidden_layers": 1000, "num_experts_per_tok": 1})
    directory("config millions of tensors", many, False, ["config"])
    def long_context(w):
        w.config["max_position_embeddings"] = 1 << 24
    directory("config 16M positions", long_context, True)


# --- safetensors and its index -----------------------------------------------------------------------------------------------------------------

def safetensors_cases():
    FILE = "model.safetensors"

    def edit(name, change, legal=False, names=(FILE,), **kw):
        directory("safetensors " + name, lambda w: w.raw.update({FILE: safetensors(w.tensors, edit=change, **kw)}), legal, names)

    def raw(name, data, legal=False, names=(FILE,)):
        directory("safetensors " + name, lambda w: w.raw.update({FILE: data(w) if callable(data) else data}), legal, names)

    Q = "model.layers.0.self_attn.q_proj.weight"
    N = "model.norm.weight"
    raw("empty file", b"")
    raw("four bytes", b"\1\0\0\0")
    raw("eight zeros", b"\0" * 8)
    raw("header of 0", struct.pack("<Q", 0) + b"{}")
    for length in (1, 7, 1 << 20, 100_000_001, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1):
        raw(f"header length {length}", lambda w, n=length: safetensors(w.tensors, length=n))
    raw("header exact file end plus 1", lambda w: struct.pack("<Q", 11) + b'{"a": "b"}')
    for text in (b"null", b"[]", b"3", b'"x"', b"{", b"{}}", b"", b"{'a': 1}", b'{"a": NaN}', b"\xff\xfe{}", b'{"a":1}x', b'{"__metadata__": 3}',
                 b'{"__metadata__": {"a": 3}}', b'{"__metadata__": {"a": "1", "a": "1"}}', b'{"__metadata__": []}', b'{"x": null}', b'{"x": 3}', b'{"x": []}',
                 b'{"x": {}}', b"[" * 100000, b'{"a":' * 100000, b'{"x": {"dtype": "F32", "shape": [' + b"[" * 5000):
        raw(f"header {text[:44]!r} {len(text)}", lambda w, t=text: safetensors(w.tensors, header=t))
    edit("dtype unknown", lambda f: f[Q].update(dtype="F33"), names=(FILE, Q))
    edit("dtype number", lambda f: f[Q].update(dtype=3), names=(FILE, Q))
    edit("dtype missing", lambda f: f[Q].pop("dtype"), names=(FILE, Q))
    edit("dtype lower case", lambda f: f[Q].update(dtype="f32"), names=(FILE, Q))
    edit("dtype other size", lambda f: f[Q].update(dtype="F16"), names=(FILE, Q))
    for dtype in ("I32", "U32"):
        edit("dtype " + dtype, lambda f, d=dtype: f[Q].update(dtype=d), names=(Q,))
    edit("shape missing", lambda f: f[Q].pop("shape"), names=(FILE, Q))
    edit("offsets missing", lambda f: f[Q].pop("data_offsets"), names=(FILE, Q))
    for shape in ([16, 17], [17, 16], [16], [16, 16, 1], [], [0, 16], [256], [-16, -16], [16.0, 16], ["16", 16], "16", None, [1 << 32, 1 << 32], [1 << 62, 4, 4],
                  [1 << 63, 2], [1 << 64, 1], [10 ** 30], [1] * 9, [1] * 5000, [[16], 16], {}, [16, 16, 0], [4294967296, 4294967296, 0], [True, 16]):
        edit(f"shape {json.dumps(shape)[:40]}", lambda f, s=shape: f[Q].update(shape=s), names=(Q[:30],))
    for offsets in ([0, 0], [1024], [0, 1024, 2048], [1024, 0], [-1024, 0], ["0", "1024"], [0.0, 1024.0], None, 5, [1 << 63, (1 << 63) + 1024], [(1 << 64) - 1024, 0],
                    [1 << 40, (1 << 40) + 1024], [0, 1 << 64], [], {}, [0, 10 ** 30]):
        edit(f"offsets {json.dumps(offsets)[:40]}", lambda f, o=offsets: f[Q].update(data_offsets=o))
    def shift(f, by):
        f[Q]["data_offsets"] = [x + by for x in f[Q]["data_offsets"]]
    for by in (-4, 4, 1, -1, 1024):
        edit(f"offsets shifted {by}", lambda f, b=by: shift(f, b))
    def same(f):
        f["model.layers.1.self_attn.q_proj.weight"]["data_offsets"] = f[Q]["data_offsets"]
    edit("two tensors share bytes", same)
    edit("unknown field of a tensor", lambda f: f[Q].update(note="x"), True)
    raw("bytes behind", lambda w: safetensors(w.tensors, tail=b"\0\0\0\0"))
    raw("zip behind", lambda w: safetensors(w.tensors, tail=b"PK\3\4" + b"\0" * 100))
    raw("cut 1", lambda w: safetensors(w.tensors)[:-1])
    raw("cut half", lambda w: safetensors(w.tensors)[:20000])
    raw("cut in header", lambda w: safetensors(w.tensors)[:300])
    raw("duplicate tensor", lambda w: safetensors(w.tensors, header=json.dumps({k: {"dtype": d, "shape": s, "data_offsets": [0, len(b)]} for k, (d, s, b) in w.tensors.items()}).encode()[:-1]
                                                  + b', "model.norm.weight": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}'))
    raw("bad utf-8 name", lambda w: safetensors(w.tensors, header=b'{"\xff\xfe": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'))
    raw("pickle", b"\x80\x02}q\x00.")
    raw("zip", b"PK\3\4" + b"\0" * 500)
    raw("html", b"<!DOCTYPE html><html>404</html>")
    raw("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 123\n")
    raw("padded header", lambda w: safetensors(w.tensors, pad=4096), True)
    raw("metadata", lambda w: safetensors(w.tensors, metadata={"format": "pt", "other": "ü"}), True)
    raw("empty metadata", lambda w: safetensors(w.tensors, metadata={}), True)
    raw("reverse order", lambda w: safetensors(dict(reversed(list(w.tensors.items())))), True)
    raw("header over 100 MB", lambda w: safetensors(w.tensors, pad=100_000_001))
    def million(w):
        return safetensors({}, header=("{" + ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(300000)) + "}").encode())
    raw("300000 empty tensors", million)
    BIG = 99_000_000
    raw("header of 99 MB of spaces", lambda w: safetensors(w.tensors, pad=BIG), True)
    raw("name of 99 MB", lambda w: safetensors({}, header=b'{"' + b"n" * BIG + b'": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'))
    raw("metadata value of 99 MB", lambda w: safetensors(w.tensors, metadata={"a": "x" * (BIG - 10000)}))
    raw("escapes of 99 MB", lambda w: safetensors(w.tensors, metadata={"a": "\n" * (BIG // 2 - 10000)}))
    raw("numbers of 99 MB in an unknown field", lambda w: safetensors({}, header=b'{"x": {"y": [' + b"1," * (BIG // 2 - 100) + b"1]}}"))
    raw("shape of 99 MB", lambda w: safetensors({}, header=b'{"x": {"dtype": "F32", "shape": [' + b"1," * (BIG // 2 - 100) + b"1]}}"))
    raw("metadata of a million entries", lambda w: safetensors({}, header=('{"__metadata__": {' + ",".join(f'"k{i}": "v"' for i in range(1_000_000)) + "}}").encode()))
    raw("brackets of 99 MB", lambda w: safetensors({}, header=b"[" * BIG))
    raw("digits of 99 MB", lambda w: safetensors({}, header=b'{"x": ' + b"1" * BIG + b"}"))

    def tensor(name, change, legal=False, names=()):
        directory("tensors " + name, lambda w: change(w.tensors), legal, names)
    tensor("one missing", lambda t: t.pop(Q), names=(Q,))
    tensor("three missing", lambda t: [t.pop(k) for k in (Q, N, "lm_head.weight")], names=(Q, N, "lm_head.weight"))
    tensor("one extra", lambda t: t.update({"model.layers.0.other.weight": ["F32", [1], b"\0" * 4]}), names=("model.layers.0.other.weight",))
    tensor("extra layer", lambda t: t.update({"model.layers.2.input_layernorm.weight": ["F32", [16], b"\0" * 64]}), names=("model.layers.2.input_layernorm.weight",))
    tensor("misshaped", lambda t: t.update({Q: ["F32", [8, 32], t[Q][2]]}), names=(Q,))
    tensor("transposed o", lambda t: t.update({"model.layers.0.mlp.down_proj.weight": ["F32", [24, 16], t["model.layers.0.mlp.down_proj.weight"][2]]}), names=("down_proj",))
    def all_three(t):
        t.pop(N)
        t["other"] = ["F32", [1], b"\0" * 4]
        t[Q][1] = [256, 1]
    tensor("missing, extra and misshaped at once", all_three, names=(N, "other", Q))
    tensor("prefix lost", lambda t: [t.update({k[6:]: t.pop(k)}) for k in list(t) if k.startswith("model.")], names=("model.norm.weight",))
    for dtype, fmt in (("F64", "d"), ("F16", "e"), ("BF16", None)):
        def narrow(t, dtype=dtype, fmt=fmt):
            for k, (d, s, b) in t.items():
                v = struct.unpack(f"<{len(b) // 4}f", b)
                t[k] = [dtype, s, struct.pack(f"<{len(v)}{fmt}", *v) if fmt else b"".join(b[i + 2:i + 4] for i in range(0, len(b), 4))]
        tensor("legal " + dtype, narrow, True)
    for dtype, size in (("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)):
        tensor("dtype " + dtype, lambda t, d=dtype, n=size: t.update({Q: [d, [16, 16], b"\0" * (256 * n)]}), names=(Q,))
    for name, value in (("NaN", float("nan")), ("Inf", float("inf")), ("-Inf", -float("inf"))):
        tensor(name, lambda t, v=value: t[Q].__setitem__(2, t[Q][2][:400] + struct.pack("<f", v) + t[Q][2][404:]), names=(FILE, Q))
        tensor(name + " in a norm", lambda t, v=value: t[N].__setitem__(2, struct.pack("<f", v) + t[N][2][4:]), names=(FILE, N))
    tensor("f64 beyond float", lambda t: t.update({N: ["F64", [16], struct.pack("<16d", *[1e300] * 16)]}), names=(N,))
    tensor("rotary buffers", lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": ["F32", [2], b"\0" * 8]}), True)
    def tied(w):
        w.config["tie_word_embeddings"] = True
    directory("tensors tied head with its copy", tied, True)
    def tied_alone(w):
        w.config["tie_word_embeddings"] = True
        w.tensors.pop("lm_head.weight")
    directory("tensors tied head", tied_alone, True)
    directory("tensors untied head missing", lambda w: w.tensors.pop("lm_head.weight"), False, ["lm_head.weight"])

    # FP8 with scales of blocks
    def fp8(w, block=(8, 8), scale_shape=None, drop_scale=False, dtype="F8_E4M3", nan=False, scale_nan=False):
        w.config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block), "activation_scheme": "dynamic"}
        rows, cols = w.tensors[Q][1]
        w.tensors[Q] = [dtype, [rows, cols], bytes([0x7F if nan and i == 5 else 0x38 for i in range(rows * cols)])]
        shape = scale_shape or [-(-rows // block[0]), -(-cols // block[1])]
        n = 1
        for s in shape:
            n *= s
        if not drop_scale:
            w.tensors[Q + "_scale_inv"] = ["F32", shape, struct.pack(f"<{n}f", *[float("nan") if scale_nan else 0.01] * n)]
    directory("fp8 legal", fp8, True)
    directory("fp8 legal uneven blocks", lambda w: fp8(w, (5, 7)), True)
    directory("fp8 scale missing", lambda w: fp8(w, drop_scale=True), False, [Q])
    directory("fp8 scale misshaped", lambda w: fp8(w, scale_shape=[2, 3]), False, [Q + "_scale_inv"])
    directory("fp8 scale of rank 1", lambda w: fp8(w, scale_shape=[4]), False, [Q + "_scale_inv"])
    directory("fp8 e5m2", lambda w: fp8(w, dtype="F8_E5M2"), False, [Q])
    directory("fp8 NaN", lambda w: fp8(w, nan=True), False, [Q])
    directory("fp8 scale NaN", lambda w: fp8(w, scale_nan=True), False, [Q])
    def unannounced(w):
        fp8(w)
        w.config.pop("quantization_config")
    directory("fp8 without quantization_config", unannounced, False, [""])

    # shards
    INDEX = "model.safetensors.index.json"
    def shards(w, n=2):
        names = list(w.tensors)
        weight_map, files = {}, {}
        for i in range(n):
            part = names[i::n]
            file = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
            files[file] = safetensors({k: w.tensors[k] for k in part})
            weight_map.update({k: file for k in part})
        w.raw.update(files)
        return weight_map
    def index(name, change, legal=False, names=(INDEX,), n=2, whole=None):
        def build(w):
            weight_map = shards(w, n)
            obj = {"metadata": {"total_size": 1}, "weight_map": weight_map}
            if change:
                obj = change(obj, w) or obj
            w.raw[INDEX] = obj if isinstance(obj, (bytes, str)) else json.dumps(obj)
        directory("index " + name, build, legal, names)
    FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index("legal", None, True)
    index("legal, one shard", None, True, n=1)
    index("legal, many shards", None, True, n=20)
    index("no metadata", lambda o, w: {"weight_map": o["weight_map"]}, True)
    index("metadata only besides", lambda o, w: {"metadata": {"total_size": 10 ** 30, "x": [1]}, "weight_map": o["weight_map"]}, True)
    index("no weight_map", lambda o, w: {"metadata": {}})
    index("empty weight_map", lambda o, w: {"weight_map": {}})
    index("array", lambda o, w: b"[]")
    index("null", lambda o, w: b"null")
    index("half", lambda o, w: json.dumps(o)[:100])
    index("weight_map array", lambda o, w: {"weight_map": []})
    index("file is a number", lambda o, w: o["weight_map"].update({Q: 3}))
    index("file is null", lambda o, w: o["weight_map"].update({Q: None}))
    index("duplicate key", lambda o, w: '{"weight_map": {"a": "%s", "a": "%s"}}' % (FIRST, SECOND))
    index("bad utf-8", lambda o, w: b'{"weight_map": {"\xff": "x"}}')
    index("deep", lambda o, w: b'{"weight_map": ' + b"[" * 100000)
    for path in ("../model.safetensors", "/etc/passwd", "a/../../x.safetensors", "", ".", "..", "x\0y", "./../x", "sub/../../../etc/passwd"):
        index(f"path {path!r}", lambda o, w, p=path: o["weight_map"].update({Q: p}), names=(INDEX,) if path == "." else (INDEX, Q))
    index("shard missing", lambda o, w: w.raw.update({SECOND: None}), names=(SECOND,))
    index("shard cut", lambda o, w: w.raw.update({SECOND: w.raw[SECOND][:-8]}), names=(SECOND,))
    index("shard is the other", lambda o, w: w.raw.update({SECOND: w.raw[FIRST]}), names=(INDEX,))
    index("tensor not in its shard", lambda o, w: o["weight_map"].update({Q: SECOND if o["weight_map"][Q] == FIRST else FIRST}), names=(INDEX, Q))
    index("tensor that nobody has", lambda o, w: o["weight_map"].update({"nowhere": FIRST}), names=(INDEX, "nowhere"))
    index("tensor missing in the map and the shards", lambda o, w: o["weight_map"].pop(Q) and None, True)
    index("shard in a folder", lambda o, w: [w.raw.update({"sub/" + FIRST: w.raw.pop(FIRST)}), o["weight_map"].update({k: "sub/" + f for k, f in o["weight_map"].items() if f == FIRST})] and None, True)
    index("unknown fields", lambda o, w: {**o, "x": 1}, True)
    index("31 MB of arrays", lambda o, w: '{"x": [' + "[]," * 10_300_000 + '[]], "weight_map": {}}')
    index("31 MB of numbers", lambda o, w: '{"x": [' + "1," * 15_000_000 + '1], "weight_map": {}}')
    index("40 MB", lambda o, w: json.dumps({**o, "x": "a" * (40 << 20)}))

    # what the files are
    def special(name, file, make, legal=False, names=()):
        def build(w):
            def after(path):
                target = os.path.join(path, file)
                if os.path.exists(target):
                    os.rename(target, target + ".real")
                make(target, path)
            w.after = after
        directory("special " + name, build, legal, names)
    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        special("fifo " + file, file, lambda t, p: os.mkfifo(t), names=(file,))
        special("zero " + file, file, lambda t, p: os.symlink("/dev/zero", t), names=(file,))
        special("tty-like " + file, file, lambda t, p: os.symlink("/dev/null", t), names=(file,))
        special("directory " + file, file, lambda t, p: os.mkdir(t), names=(file,))
        special("dangling " + file, file, lambda t, p: os.symlink("nowhere", t), names=(file,) if file != "tokenizer_config.json" else (), legal=file == "tokenizer_config.json")
        special("loop " + file, file, lambda t, p: os.symlink(os.path.basename(t), t), names=(file,) if file != "tokenizer_config.json" else (), legal=file == "tokenizer_config.json")
        special("link " + file, file, lambda t, p: os.symlink(os.path.basename(t) + ".real", t), True)
        special("proc " + file, file, lambda t, p: os.symlink("/proc/self/mem", t), names=(file,))
    def cache(path):
        World().write(path + "/real")
        blobs, snapshot = path + "/models--a--b/blobs", path + "/models--a--b/snapshots/0123"
        os.makedirs(blobs), os.makedirs(snapshot)
        for i, name in enumerate(os.listdir(path + "/real")):
            os.rename(f"{path}/real/{name}", f"{blobs}/{i:040x}")
            os.symlink(f"../../blobs/{i:040x}", f"{snapshot}/{name}")
        return snapshot
    case("special Hugging Face cache", cache, True)
    case("special empty directory", lambda p: os.makedirs(p) or p, False, [""])
    case("special no path", lambda p: p, False, [""])
    case("special /dev/zero", lambda p: "/dev/zero", False, ["/dev/zero"])
    def fifo(p):
        os.mkfifo(p)
        return p
    case("special fifo", fifo, False, [""])


# --- tokenizer.json and what stands beside it -----------------------------------------------------------------------------------------------------

def tokenizer_cases():
    FILE = "tokenizer.json"

    def change(name, f, legal=False, names=(FILE,)):
        directory("tokenizer " + name, lambda w: f(w.tokenizer) and None, legal, names)

    def raw(name, data, legal=False, names=(FILE,)):
        directory("tokenizer text " + name, lambda w: w.raw.update({FILE: data(w) if callable(data) else data}), legal, names)

    text = json.dumps(tokenizer())
    directory("tokenizer missing", lambda w: w.raw.update({FILE: None}), False, [FILE])
    raw("empty", b"")
    raw("null", b"null")
    raw("array", b"[]")
    raw("half", text[:len(text) // 2])
    raw("trailing", text + "x")
    raw("bad utf-8", text.encode()[:-1] + b', "x": "\xff"}')
    raw("duplicate key", text[:-1] + ', "model": {}}')
    raw("duplicate token", text.replace('"vocab": {', '"vocab": {"!": 7, '))
    raw("deep", text[:-1] + ', "x": ' + "[" * 100000 + "]" * 100000 + "}")
    raw("bom", b"\xef\xbb\xbf" + text.encode(), True)
    raw("pretty", json.dumps(tokenizer(), indent=2, ensure_ascii=False), True)
    raw("html", b"<html></html>")
    raw("60 MB of arrays", lambda w: text[:-1] + ', "x": [' + "[]," * 20_000_000 + "[]]}")
    raw("60 MB of objects", lambda w: text[:-1] + ', "x": [' + "{}," * 20_000_000 + "{}]}")
    raw("60 MB of numbers", lambda w: text[:-1] + ', "x": [' + "1," * 30_000_000 + "1]}")
    raw("60 MB of one string", lambda w: text[:-1] + ', "x": "' + "a" * 60_000_000 + '"}')
    raw("60 MB of one number", lambda w: text[:-1] + ', "x": ' + "1" * 60_000_000 + "}")
    raw("a million added tokens", lambda w: text.replace('"added_tokens": [', '"added_tokens": [' + '{"id":1,"content":"a"},' * 1_000_000))
    raw("300 MB", lambda w: text[:-1] + ', "x": "' + "a" * 300_000_000 + '"}')
    for key in ("model",):
        change(f"{key} missing", lambda t, k=key: t.pop(k))
        for value in (None, 3, [], {}, "BPE"):
            change(f"{key}={json.dumps(value)}", lambda t, k=key, v=value: t.__setitem__(k, v))
    for value in (3, "x", {}, [3], [{}], [{"id": 260}], [{"content": "<s>"}], [None]):
        change(f"added_tokens={json.dumps(value)}", lambda t, v=value: t.__setitem__("added_tokens", v))
    for kind in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for value in (3, "x", [], {}, {"type": "NoSuch"}, {"type": 3}, {"type": "Sequence"}, {"type": "Sequence", kind + "s": 3}):
            if kind == "normalizer" and value == {"type": "Sequence", "normalizers": 3}:
                pass
            change(f"{kind}={json.dumps(value)}", lambda t, k=kind, v=value: t.__setitem__(k, v))
        def nest(t, k=kind):
            value = {"type": "ByteLevel"}
            for _ in range(2000):
                value = {"type": "Sequence", {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors", "decoder": "decoders"}[k]: [value]}
            t[k] = value
        def nested(w, k=kind):
            inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors", "decoder": "decoders"}[k]
            t = dict(w.tokenizer)
            t[k] = "@"
            w.raw[FILE] = json.dumps(t).replace('"@"', '{"type":"Sequence","%s":[' % inner * 2000 + '{"type":"ByteLevel"}' + "]}" * 2000)
        directory(f"tokenizer {kind} nested 2000 deep", nested, False, [FILE])
    for pattern in ("(", "[", "a{2,1}", "(?<=a*)b", "\\", "(?P<x", "(a+)+$" * 0 + "(?R)", "\\p{Nonsense}", "x" * 200000, "(" * 5000 + ")" * 5000, "(?{ exec })"):
        change(f"regex {pattern[:20]!r}", lambda t, p=pattern: t.__setitem__("pre_tokenizer", {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}), names=(FILE,))
    change("split behaviour unknown", lambda t: t.__setitem__("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Nonsense", "invert": False}))
    change("split without pattern", lambda t: t.__setitem__("pre_tokenizer", {"type": "Split", "behavior": "Isolated", "invert": False}))
    def model(name, f, legal=False, names=(FILE,)):
        change("model " + name, lambda t: f(t["model"]), legal, names)
    model("type unknown", lambda m: m.update(type="WordThing"))
    model("type WordPiece", lambda m: m.update(type="WordPiece"))
    model("vocab missing", lambda m: m.pop("vocab"))
    for value in (None, 3, [], "x", {}):
        model(f"vocab={json.dumps(value)}", lambda m, v=value: m.update(vocab=v))
    for value in (-1, 1.5, "3", None, 1 << 31, 4_000_000_000, 1 << 63, 1 << 64, [], True):
        model(f"id={value}", lambda m, v=value: m["vocab"].update({"the": v}))
    model("id 5000", lambda m: m["vocab"].update({"the": 5000}), names=("5000",))
    model("two tokens of one id", lambda m: m["vocab"].update({"the": m["vocab"]["th"]}))
    model("byte token missing", lambda m: m["vocab"].pop("$"))
    model("merges missing", lambda m: m.pop("merges"))
    for value in (None, 3, {}, "x", [3], [["a"]], [["a", "b", "c"]], ["a"], ["a b c d"], [["a", 3]], [["q", "zz"]], [["t", "q"]], [[]], [None]):
        model(f"merges={json.dumps(value)}", lambda m, v=value: m.update(merges=v))
    model("merges as text", lambda m: m.update(merges=[" ".join(p) for p in m["merges"]]), True)
    model("merge twice", lambda m: m["merges"].append(["t", "h"]), True)
    model("unk_token unknown", lambda m: m.update(unk_token="<nothing>"))
    model("unk_token number", lambda m: m.update(unk_token=3))
    model("dropout", lambda m: m.update(dropout=0.5))
    model("dropout text", lambda m: m.update(dropout="x"))
    model("byte_fallback text", lambda m: m.update(byte_fallback="x"))
    model("suffix", lambda m: m.update(end_of_word_suffix=3))
    model("unknown field", lambda m: m.update(some_new_field=1), True)
    def another(token):
        def f(t):
            t["model"]["vocab"][token] = 260
            for a in t["added_tokens"]:
                a["id"] += 1
        return f
    change("model token of a megabyte", another("x" * (1 << 20)), True)
    def added(name, entry, legal=False, names=(FILE,)):
        def f(t):
            base = {"id": 263, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
            base.update(entry)
            t["added_tokens"].append(base)
        change("added " + name, f, legal, names)
    added("legal", {}, True)
    added("negative id", {"id": -1})
    added("id text", {"id": "263"})
    added("id fraction", {"id": 263.5})
    added("id 4000000000", {"id": 4_000_000_000})
    added("id beyond vocab_size", {"id": VOCAB + 5}, names=(str(VOCAB + 5),))
    added("id of another", {"id": 261})
    added("id of a vocabulary token", {"id": 5})
    added("content of another", {"content": "<s>"})
    added("content number", {"content": 3})
    added("content empty", {"content": ""})
    added("content null", {"content": None})
    added("special text", {"special": "yes"})
    added("in the vocabulary under another id", {"content": "the", "id": 263})
    change("added gap", lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 310, "content": "<far>"}))
    change("unknown top field", lambda t: t.update(extra={"x": 1}), True)
    change("truncation", lambda t: t.update(truncation={"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}), True)
    for value in ({"type": "TemplateProcessing"}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<nothing>", "type_id": 0}}], "pair": [], "special_tokens": {}},
                  {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                   "special_tokens": {"<s>": {"id": "<s>", "ids": [999999], "tokens": ["<s>"]}}},
                  {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                   "special_tokens": {"<s>": {"id": "<s>", "ids": ["x"], "tokens": ["<s>"]}}},
                  {"type": "TemplateProcessing", "single": 3, "pair": 3, "special_tokens": 3}):
        change(f"template {json.dumps(value)[26:90]}", lambda t, v=value: t.__setitem__("post_processor", v))
    # Unigram
    def unigram(name, f, legal=False, names=(FILE,)):
        def g(t):
            t["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "prepend_scheme": "always"}
            t["decoder"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "prepend_scheme": "always"}
            t["added_tokens"] = []
            t["model"] = {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["<pad>", 0.0], ["▁", -2.0], ["a", -3.0], ["b", -4.5], ["▁a", -2.5]]}
            f(t["model"])
        change("unigram " + name, g, legal, names)
    unigram("legal", lambda m: None, True)
    for value in (8, -1, "0", 1 << 63, 1.5):
        unigram(f"unk_id={value}", lambda m, v=value: m.update(unk_id=v))
    for value in (None, 3, {}, [3], [["a"]], [["a", "b"]], [[3, 0.5]], [["a", 0.5, 1]], []):
        unigram(f"vocab={json.dumps(value)}", lambda m, v=value: m.update(vocab=v))
    unigram("score null", lambda m: m["vocab"].append(["zz", None]))
    # beside it
    CONFIG = "tokenizer_config.json"
    for data in (b"", b"[]", b"null", b"{", b'{"a": 1, "a": 2}', b'{"x": "\xff"}', b"[" * 100000, b'{"chat_template": 3}', b'{"bos_token": 3}', b'{"eos_token": "<nothing>"}', b'{"eos_token": {"content": 3}}'):
        directory(f"tokenizer_config {data[:30]!r}", lambda w, d=data: w.raw.update({CONFIG: d}), False, [CONFIG])
    directory("tokenizer_config missing", lambda w: w.raw.update({CONFIG: None}), True)
    directory("tokenizer_config objects", lambda w: w.tokenizer_config.update(bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False}, extra=[1]), True)
    directory("template list", lambda w: w.tokenizer_config.update(chat_template=[{"name": "default", "template": "x"}, {"name": "tool_use", "template": "y"}]), True)
    directory("template file", lambda w: w.raw.update({"chat_template.jinja": "{{ messages[0]['content'] }}"}), True)
    for value in (VOCAB, -1, "x", [1, VOCAB], {}, 1 << 63, 1.5):
        directory(f"generation eos={json.dumps(value)}", lambda w, v=value: setattr(w, "generation", {"eos_token_id": v}), False, ["generation_config.json", "eos_token_id"])
    directory("generation list", lambda w: setattr(w, "generation", {"eos_token_id": [261, 260], "temperature": 0.6}), True)
    directory("generation null", lambda w: setattr(w, "generation", {"eos_token_id": None}), True)
    for data in (b"", b"[]", b"{", b'{"eos_token_id": 1, "eos_token_id": 1}'):
        directory(f"generation {data!r}", lambda w, d=data: w.raw.update({"generation_config.json": d}), False, ["generation_config.json"])
    directory("special_tokens_map", lambda w: w.raw.update({"special_tokens_map.json": '{"bos_token": "<s>"}'}), True)
    directory("special_tokens_map bad", lambda w: w.raw.update({"special_tokens_map.json": "{"}), False, ["special_tokens_map.json"])


# --- GGUF -------------------------------------------------------------------------------------------------------------------------------------

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORMATS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d"}


def text(s):
    b = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STR:
        return text(v)
    if kind == ARR:
        element, items = v
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, i) for i in items)
    return struct.pack(FORMATS[kind], v)


class Gguf:
    def __init__(self):
        alphabet = byte_alphabet()
        tokens = alphabet + ["th", "the", "Ġthe", "in", "<s>", "</s>", "<pad>"]
        tokens += [f"[PAD{i}]" for i in range(len(tokens), VOCAB)]
        types = [1] * 260 + [3] * 3 + [5] * (VOCAB - 263)
        self.keys = [
            ["general.architecture", STR, "llama"], ["general.alignment", U32, 32], ["general.name", STR, "x"],
            ["llama.block_count", U32, LAYERS], ["llama.context_length", U32, 64], ["llama.embedding_length", U32, HIDDEN],
            ["llama.feed_forward_length", U32, INNER], ["llama.attention.head_count", U32, HEADS], ["llama.attention.head_count_kv", U32, KV],
            ["llama.attention.layer_norm_rms_epsilon", F32, 1e-5], ["llama.rope.freq_base", F32, 10000.0], ["llama.rope.dimension_count", U32, WIDTH],
            ["llama.vocab_size", U32, VOCAB], ["tokenizer.ggml.model", STR, "gpt2"], ["tokenizer.ggml.pre", STR, "gpt-2"],
            ["tokenizer.ggml.tokens", ARR, (STR, tokens)], ["tokenizer.ggml.token_type", ARR, (I32, types)],
            ["tokenizer.ggml.merges", ARR, (STR, ["t h", "th e", "Ġ the", "i n"])], ["tokenizer.ggml.bos_token_id", U32, 260],
            ["tokenizer.ggml.eos_token_id", U32, 261]]
        names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
                 "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
                 "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
        self.tensors = []  # [name, dims (innermost first), type, bytes, offset or None]
        for name, (_, shape, data) in tensors(config()).items():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            self.tensors.append([name.replace("model.layers.", "blk."), shape[::-1], 0, data, None])
        self.version, self.magic, self.count, self.key_count, self.alignment = 3, b"GGUF", None, None, 32
        self.cut, self.tail, self.extra_keys = None, b"", b""

    def set(self, key, kind, v):
        self.keys = [k for k in self.keys if k[0] != key] + [[key, kind, v]]

    def drop(self, key):
        self.keys = [k for k in self.keys if k[0] != key]

    def bytes(self):
        out = self.magic + struct.pack("<IQQ", self.version, len(self.tensors) if self.count is None else self.count,
                                       len(self.keys) if self.key_count is None else self.key_count)
        for key, kind, v in self.keys:
            out += text(key) + struct.pack("<I", kind) + (v if isinstance(v, bytes) and kind != STR else value(kind, v))
        out += self.extra_keys
        at, data = 0, b""
        for name, dims, kind, content, offset in self.tensors:
            out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d & (2 ** 64 - 1)) for d in dims)
            out += struct.pack("<IQ", kind, at if offset is None else offset)
            padded = content + b"\0" * (-len(content) % self.alignment)
            data += padded
            at += len(padded)
        out += b"\0" * (-len(out) % self.alignment) + data + self.tail
        return out if self.cut is None else out[:self.cut]


def gguf_cases():
    def gguf(name, change, legal=False, names=("x.gguf",)):
        def make(path):
            g = Gguf()
            data = change(g)
            os.makedirs(path)
            file = os.path.join(path, "x.gguf")
            with open(file, "wb") as f:
                f.write(data if isinstance(data, bytes) else g.bytes())
            return file
        case("gguf " + name, make, legal, names)

    def attr(**kw):
        return lambda g: g.__dict__.update(kw) and None

    gguf("legal", lambda g: None, True)
    gguf("magic", attr(magic=b"GGML"))
    gguf("empty", lambda g: b"")
    gguf("three bytes", lambda g: b"GGU")
    for v in (0, 1, 4, 0x03000000, 0xFFFFFFFF):
        gguf(f"version {v}", attr(version=v))
    gguf("version 2", attr(version=2), True)
    for n in (0, 1, 1000, 1 << 31, 1 << 40, 1 << 60, 1 << 63, (1 << 64) - 1):
        gguf(f"tensor count {n}", attr(count=n))
        gguf(f"key count {n}", attr(key_count=n))
    for cut in (4, 8, 16, 23, 24, 25, 30, 40, 100, 1000, 5000, 8000, 20000, -1, -64, -1000):
        gguf(f"cut {cut}", attr(cut=cut))
    gguf("bytes behind", attr(tail=b"\0" * 64), True)
    gguf("legal alignment 64", lambda g: (g.set("general.alignment", U32, 64), g.__dict__.update(alignment=64)) and None, True)
    gguf("legal no alignment", lambda g: g.drop("general.alignment"), True)
    for kind, v in ((U32, 0), (U32, 3), (U32, 33), (U32, 1 << 31), (STR, "32"), (F32, 32.0), (I32, -32), (BOOL, 1), (ARR, (U32, [32]))):
        gguf(f"alignment {kind} {v}", lambda g, k=kind, x=v: g.set("general.alignment", k, x), names=("x.gguf", "general.alignment"))
    for key in ("general.architecture", "llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
                "llama.attention.layer_norm_rms_epsilon", "llama.context_length", "tokenizer.ggml.model", "tokenizer.ggml.tokens"):
        gguf(f"missing {key}", lambda g, k=key: g.drop(k), names=("x.gguf", key))
    for key in ("llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count", "llama.context_length", "llama.attention.head_count_kv", "llama.rope.dimension_count"):
        for kind, v in ((U32, 0), (STR, "2"), (F32, 2.0), (U64, 1 << 63), (U64, 1 << 40), (I32, -2), (BOOL, 1), (F64, float("nan")), (ARR, (STR, ["a"]))):
            gguf(f"{key} {kind} {v}", lambda g, k=key, t=kind, x=v: g.set(k, t, x), names=("x.gguf",))
    for v in (0.0, -1.0, float("nan"), float("inf")):
        gguf(f"eps {v}", lambda g, x=v: g.set("llama.attention.layer_norm_rms_epsilon", F32, x), names=("x.gguf", "epsilon" if v == v and abs(v) < 1e30 and False else ""))
        gguf(f"rope base {v}", lambda g, x=v: g.set("llama.rope.freq_base", F32, x))
    gguf("legal i64 sizes", lambda g: g.set("llama.block_count", I64, LAYERS), True)
    gguf("legal u16 sizes", lambda g: g.set("llama.block_count", U16, LAYERS), True)
    gguf("architecture other", lambda g: g.set("general.architecture", STR, "mamba"), names=("x.gguf", "general.architecture"))
    gguf("architecture number", lambda g: g.set("general.architecture", U32, 3), names=("x.gguf", "general.architecture"))
    gguf("duplicate key", lambda g: g.keys.append(["llama.block_count", U32, LAYERS]), names=("x.gguf", "llama.block_count"))
    gguf("empty key", lambda g: g.keys.append(["", U32, 1]))
    gguf("bad utf-8 key", lambda g: g.keys.append([b"\xff\xfe", U32, 1]))
    gguf("key of 70000 bytes", lambda g: g.keys.append(["k" * 70000, U32, 1]))
    gguf("unknown key", lambda g: g.keys.append(["general.whatever", STR, "x"]), True)
    gguf("bad utf-8 value", lambda g: g.set("general.name", STR, b"\xff\xfe"), names=("x.gguf",)) if False else None
    for kind in (13, 99, 0xFFFFFFFF):
        gguf(f"value type {kind}", lambda g, k=kind: g.keys.append(["k", k, b"\0" * 8]), names=("x.gguf", "k"))
    gguf("bool 2", lambda g: g.keys.append(["k", BOOL, 2]), names=("x.gguf", "k"))
    for n in (1 << 20, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1):
        gguf(f"string length {n}", lambda g, n=n: g.keys.append(["k", U64 + 100, b""]) or g.keys.pop() and None or g.__dict__.update(extra_keys=text("k") + struct.pack("<IQ", STR, n), key_count=len(g.keys) + 1) and None)
        gguf(f"array length {n}", lambda g, n=n: g.__dict__.update(extra_keys=text("k") + struct.pack("<IIQ", ARR, U32, n), key_count=len(g.keys) + 1) and None)
        gguf(f"array of strings length {n}", lambda g, n=n: g.__dict__.update(extra_keys=text("k") + struct.pack("<IIQ", ARR, STR, n), key_count=len(g.keys) + 1) and None)
        gguf(f"key length {n}", lambda g, n=n: g.__dict__.update(extra_keys=struct.pack("<Q", n) + b"k", key_count=len(g.keys) + 1) and None)
    nested = b""
    for _ in range(5000):
        nested += struct.pack("<IQ", ARR, 1)
    gguf("nested arrays", lambda g: g.keys.append(["k", ARR, nested + struct.pack("<IQ", U8, 0)]))
    def tensor(name, change, legal=False, names=("x.gguf",)):
        gguf("tensor " + name, lambda g: change({t[0]: t for t in g.tensors}, g), legal, names)
    Q = "blk.0.attn_q.weight"
    for dims in ([16], [16, 16, 1], [16, 17], [0, 16], [16, 0], [1 << 32, 1 << 32], [1 << 62, 4], [1 << 63, 2], [(1 << 64) - 16, 16], [], [1] * 5, [1] * 100, [256], [16, 16, 1, 1]):
        tensor(f"dims {dims[:5]}", lambda t, g, d=dims: t[Q].__setitem__(1, d) or None, legal=dims in ([16, 16, 1], [16, 16, 1, 1]) and False, names=("x.gguf", ""))
    for kind in (1, 2, 3, 4, 5, 8, 12, 14, 16, 20, 30, 31, 40, 99, 1 << 31, 0xFFFFFFFF):
        tensor(f"type {kind}", lambda t, g, k=kind: t[Q].__setitem__(2, k) or None, names=("x.gguf",)) if kind not in (1, 30, 16, 20) else None
    for offset in (1, 4, 31, 32, 1 << 20, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 32, (1 << 64) - 1024):
        tensor(f"offset {offset}", lambda t, g, o=offset: t[Q].__setitem__(4, o) or None)
    tensor("twice", lambda t, g: g.tensors.append(list(t[Q])), names=("x.gguf", Q))
    tensor("missing", lambda t, g: g.tensors.remove(t[Q]), names=("x.gguf", Q[:0]))
    tensor("extra", lambda t, g: g.tensors.append(["blk.0.other.weight", [1], 0, b"\0" * 4, None]), names=("x.gguf", "blk.0.other.weight"))
    tensor("extra layer", lambda t, g: g.tensors.append(["blk.9.attn_norm.weight", [16], 0, b"\0" * 64, None]), names=("x.gguf", "blk.9"))
    tensor("name of 65 bytes", lambda t, g: g.tensors.append(["n" * 65, [1], 0, b"\0" * 4, None]))
    tensor("empty name", lambda t, g: g.tensors.append(["", [1], 0, b"\0" * 4, None]))
    tensor("bad utf-8 name", lambda t, g: t[Q].__setitem__(0, b"\xff\xfe"))
    tensor("NaN", lambda t, g: t[Q].__setitem__(3, struct.pack("<f", float("nan")) + t[Q][3][4:]), names=("x.gguf", Q))
    tensor("Inf in a norm", lambda t, g: t["output_norm.weight"].__setitem__(3, struct.pack("<f", float("inf")) + t["output_norm.weight"][3][4:]), names=("x.gguf", "output_norm"))
    tensor("tied", lambda t, g: g.tensors.remove(t["output.weight"]), True)
    tensor("reverse order", lambda t, g: g.tensors.reverse(), True)
    T, Y = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
    tokens = lambda g: next(k for k in g.keys if k[0] == T)[2][1]
    gguf("token twice", lambda g: tokens(g).__setitem__(5, tokens(g)[6]), names=("x.gguf", "token"))
    gguf("tokens fewer", lambda g: (g.set(T, ARR, (STR, tokens(g)[:280])), g.set(Y, ARR, (I32, [1] * 260 + [3] * 3 + [5] * 17))) and None, True)
    gguf("tokens more than vocab", lambda g: (g.set(T, ARR, (STR, tokens(g) + ["extra"])), g.set(Y, ARR, (I32, [1] * 260 + [3] * 3 + [5] * 57 + [1]))) and None)
    gguf("tokens numbers", lambda g: g.set(T, ARR, (U32, [1, 2])), names=("x.gguf", T))
    gguf("tokens empty", lambda g: g.set(T, ARR, (STR, [])))
    gguf("token bad utf-8", lambda g: g.set(T, ARR, (STR, [b"\xff"] + tokens(g)[1:])), names=("x.gguf", "token"))
    gguf("byte token missing", lambda g: tokens(g).__setitem__(36, "zzz"), names=("x.gguf",))
    gguf("types fewer", lambda g: g.set(Y, ARR, (I32, [1] * 5)), names=("x.gguf", Y))
    gguf("types text", lambda g: g.set(Y, ARR, (STR, ["a"] * VOCAB)), names=("x.gguf", Y))
    gguf("types u8", lambda g: g.set(Y, ARR, (U8, [1] * VOCAB)), True)
    gguf("types f32", lambda g: g.set(Y, ARR, (F32, [1.0] * VOCAB)), names=("x.gguf", Y))
    gguf("type 99", lambda g: g.set(Y, ARR, (I32, [99] * VOCAB)), names=("x.gguf", Y))
    M = "tokenizer.ggml.merges"
    for merges in (["a"], ["a b c"], [""], ["zz qq"], [" "], ["a  b"]):
        gguf(f"merges {merges}", lambda g, m=merges: g.set(M, ARR, (STR, m)), names=("x.gguf", "merge"))
    gguf("merges numbers", lambda g: g.set(M, ARR, (I32, [1])), names=("x.gguf", M))
    gguf("merges missing", lambda g: g.drop(M), names=("x.gguf", M))
    gguf("pre unknown", lambda g: g.set("tokenizer.ggml.pre", STR, "nonsense"), names=("x.gguf", "tokenizer.ggml.pre"))
    gguf("tokenizer model unknown", lambda g: g.set("tokenizer.ggml.model", STR, "bert"), names=("x.gguf", "tokenizer.ggml.model"))
    for key in ("bos", "eos", "padding", "unknown"):
        for kind, v in ((U32, VOCAB), (U32, 0xFFFFFFF0), (I32, -5), (STR, "x"), (F32, 1.0)):
            gguf(f"{key} {kind} {v}", lambda g, k=key, t=kind, x=v: g.set(f"tokenizer.ggml.{k}_token_id", t, x), names=("x.gguf", f"tokenizer.ggml.{key}_token_id"))
    gguf("add_bos text", lambda g: g.set("tokenizer.ggml.add_bos_token", STR, "x"), names=("x.gguf", "add_bos_token"))
    gguf("rope scaling unknown", lambda g: g.set("llama.rope.scaling.type", STR, "longrope"), names=("x.gguf", "llama.rope.scaling.type"))
    gguf("rope dimension 2", lambda g: g.set("llama.rope.dimension_count", U32, 2), names=("x.gguf", "llama.rope.dimension_count"))
    gguf("sliding window", lambda g: g.set("llama.attention.sliding_window", U32, 16), names=("x.gguf", "sliding_window"))
    gguf("softcap", lambda g: g.set("llama.attn_logit_softcapping", F32, 50.0), names=("x.gguf", "softcapping"))
    gguf("experts", lambda g: g.set("llama.expert_count", U32, 8), names=("x.gguf", "expert_count"))
    gguf("split", lambda g: g.set("split.count", U16, 2), names=("x.gguf", "split"))


def run(binary, target, sanitized, limited):
    def limits():
        if limited:
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    out = tempfile.TemporaryFile()
    start = time.monotonic()
    # A shell between: a child's peak begins with this process' own, as it was forked.
    p = subprocess.Popen(["sh", "-c", 'exec "$0" "$@"', binary, "inspect", target], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, preexec_fn=limits)
    try:
        deadline = start + 30
        while True:
            pid, status, usage = os.wait4(p.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                p.kill()
                os.wait4(p.pid, 0)
                return "hangs", "", 30, 0
            time.sleep(0.002)
    finally:
        p.returncode = 0
    wall = usage.ru_utime + usage.ru_stime
    out.seek(0)
    return os.waitstatus_to_exitcode(status), out.read().decode(errors="replace"), wall, usage.ru_maxrss / 1024


def main():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default="build/grouper")
    parser.add_argument("--keep")
    parser.add_argument("--sanitized", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    config_cases(), safetensors_cases(), tokenizer_cases(), gguf_cases()
    chosen = [c for c in CASES if not args.names or any(n in c[0] for n in args.names)]
    root = args.keep or tempfile.mkdtemp()
    wrong, slowest, largest = 0, 0.0, 0.0
    for i, (name, make, legal, names) in enumerate(chosen):
        target = make(os.path.join(root, f"{i:04d}"))
        problems = []
        for limited in ((False,) if args.sanitized else (False, True)):
            code, output, wall, memory = run(args.binary, target, args.sanitized, limited)
            where = " under 1 GB" if limited else ""
            slowest, largest = max(slowest, wall), max(largest, memory)
            if code == "hangs" or code < 0 or code >= 128 or "AddressSanitizer" in output or "runtime error" in output:
                problems.append(f"ends with {code}{where}")
            elif legal != (code == 0):
                problems.append(("refused" if legal else "accepted") + where)
            elif not legal and not all(n in output for n in names):
                problems.append(f"does not name {[n for n in names if n not in output]}{where}")
            if wall > (10 if args.sanitized else 1):
                problems.append(f"takes {wall:.2f} s{where}")
            if memory > 256 and not args.sanitized:
                problems.append(f"takes {memory:.0f} MB{where}")
        if problems:
            wrong += 1
            print(f"{name}: {'; '.join(problems)}\n    {output.strip()[:300]}")
        if not args.keep:
            made = os.path.join(root, f"{i:04d}")
            if os.path.isdir(made):
                shutil.rmtree(made)
            elif os.path.lexists(made):
                os.remove(made)
    legal = sum(c[2] for c in chosen)
    print(f"{len(chosen) - legal} hostile and {legal} legal files, {wrong} judged wrongly; at most {slowest:.2f} s of processor time, {largest:.0f} MB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Writes tests/golden/models/<family>/: a tiny random model as transformers saves it, and what transformers computes with it.

    python3 scripts/make_golden_models.py [FAMILY ...]      # needs torch, transformers, safetensors, gguf

Each folder holds config.json, model.safetensors (llama_bias: model.gguf too), and golden.safetensors:
    input_ids [T] int32; logits [T, V] float32 of the whole input; greedy [64] int32: the tokens that greedy decoding appends to the
    first 8 inputs; gradient.<tensor> for a few tensors, of the loss sum_i cos(0.37 i) logits[i], i counting all T * V logits.
"""
import os
import sys

import gguf
import torch
import transformers
from safetensors.torch import save_file

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "golden", "models")
BASE = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256,
            rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2)
MLA = dict(BASE, num_key_value_heads=4, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, moe_intermediate_size=12,
           n_routed_experts=8, num_experts_per_tok=3, first_k_dense_replace=1)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1)

FAMILIES = {
    # Llama 3's scaling, tied head
    "llama": ("LlamaConfig", dict(BASE, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=500.0,
                                  rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                    original_max_position_embeddings=64))),
    # untied, biases everywhere, a head width of its own, linear scaling
    "llama_bias": ("LlamaConfig", dict(BASE, num_key_value_heads=4, attention_bias=True, mlp_bias=True, head_dim=6,
                                       rope_scaling=dict(rope_type="linear", factor=2.0))),
    "qwen2": ("Qwen2Config", dict(BASE, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=1e6)),
    "qwen2_yarn": ("Qwen2Config", dict(BASE, num_key_value_heads=1, rope_scaling=YARN)),
    "qwen3": ("Qwen3Config", dict(BASE, num_key_value_heads=2, head_dim=12, tie_word_embeddings=True)),
    "qwen3_moe": ("Qwen3MoeConfig", dict(BASE, num_hidden_layers=3, num_key_value_heads=2, head_dim=8, num_experts=5, num_experts_per_tok=2,
                                         norm_topk_prob=True, moe_intermediate_size=12, mlp_only_layers=[1])),
    # V2-Lite: greedy, no q_lora; V2: groups, q_lora; YaRN with mscale in both
    "deepseek_v2_lite": ("DeepseekV2Config", dict(MLA, q_lora_rank=None, n_shared_experts=2, topk_method="greedy", norm_topk_prob=False,
                                                  routed_scaling_factor=1.0, rope_scaling=dict(YARN, mscale=0.707, mscale_all_dim=0.707))),
    "deepseek_v2": ("DeepseekV2Config", dict(MLA, q_lora_rank=20, n_shared_experts=1, topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                             norm_topk_prob=False, routed_scaling_factor=1.5, attention_bias=True,
                                             rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=0.8))),
    "deepseek_v3": ("DeepseekV3Config", dict(MLA, q_lora_rank=20, n_shared_experts=1, n_group=4, topk_group=2, routed_scaling_factor=2.5,
                                             norm_topk_prob=True, rope_scaling=dict(YARN, mscale=1.0, mscale_all_dim=1.0))),
    # Moonlight: no q_lora, one group; biases; pairs split by halves
    "deepseek_v3_no_q_lora": ("DeepseekV3Config", dict(MLA, q_lora_rank=None, n_shared_experts=2, n_group=1, topk_group=1,
                                                       routed_scaling_factor=2.446, norm_topk_prob=True, attention_bias=True,
                                                       rope_interleave=False)),
}


def randomise(model):
    """Norm weights, biases and score corrections are not 1 and 0."""
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        if "inv_freq" in name:
            continue
        if name.endswith("norm.weight"):
            tensor.data.copy_(1 + 0.2 * torch.randn_like(tensor))
        elif name.endswith("bias"):
            tensor.data.copy_(0.1 * torch.randn_like(tensor))
        elif tensor.dim() >= 2:
            tensor.data.copy_(torch.randn_like(tensor) * (1.0 / tensor.shape[-1]) ** 0.5)


def write_gguf(model, config, path):
    """As llama.cpp's converter does: its names, and q and k with the rotary pairs interleaved."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def shortest_margin(logits):
    top = logits.topk(2, dim=-1).values
    return (top[..., 0] - top[..., 1]).min().item()


def make(family):
    class_name, fields = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    config = getattr(transformers, class_name)(**fields)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model)
    folder = os.path.join(ROOT, family)
    model.save_pretrained(folder)
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))

    if family == "llama_bias":
        write_gguf(model, config, os.path.join(folder, "model.gguf"))

    for seed in range(100):  # inputs (no pad, whose gradient transformers drops) whose greedy continuation has no near ties
        torch.manual_seed(seed)
        ids = torch.randint(1, 40, (80,))
        tokens, margin = ids[:8].tolist(), 1.0
        with torch.no_grad():
            for _ in range(64):
                row = model(torch.tensor([tokens])).logits[0, -1]
                margin = min(margin, shortest_margin(row))
                tokens.append(int(row.argmax()))
        if margin > 2e-3:
            break
    logits = model(ids[None]).logits[0]
    loss_weights = torch.cos(0.37 * torch.arange(logits.numel(), dtype=torch.float64)).float().reshape(logits.shape)
    model.zero_grad()
    (loss_weights * logits).sum().backward()
    golden = {"input_ids": ids.to(torch.int32), "logits": logits.detach().clone(), "greedy": torch.tensor(tokens[8:], dtype=torch.int32)}
    parameters = dict(model.named_parameters())
    last = f"model.layers.{config.num_hidden_layers - 1}."
    wanted = ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight", last + "post_attention_layernorm.weight",
              "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.k_proj.weight",
              "model.layers.0.self_attn.k_norm.weight", "model.layers.0.self_attn.o_proj.bias",
              "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.q_a_layernorm.weight", "model.layers.0.self_attn.q_b_proj.weight",
              "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.bias",
              "model.layers.0.self_attn.kv_a_layernorm.weight", "model.layers.0.self_attn.kv_b_proj.weight", "model.layers.0.mlp.down_proj.weight",
              last + "mlp.gate.weight", last + "mlp.shared_experts.up_proj.weight"]
    for name in wanted:
        if name in parameters and parameters[name].grad is not None:
            golden["gradient." + name] = parameters[name].grad.clone()
    experts = last + "mlp.experts."
    if experts + "gate_up_proj" in parameters:  # transformers 5 keeps all experts in one tensor
        width = config.moe_intermediate_size
        gate_up, down = parameters[experts + "gate_up_proj"].grad, parameters[experts + "down_proj"].grad
        for e in (0, 3):
            golden[f"gradient.{experts}{e}.gate_proj.weight"] = gate_up[e, :width].clone()
            golden[f"gradient.{experts}{e}.up_proj.weight"] = gate_up[e, width:].clone()
            golden[f"gradient.{experts}{e}.down_proj.weight"] = down[e].clone()
    save_file({k: v.contiguous() for k, v in golden.items()}, os.path.join(folder, "golden.safetensors"),
              metadata={"transformers": transformers.__version__, "torch": torch.__version__})
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{family:24} {size / 1024:6.0f} KB  greedy margin {margin:.1e}")


for name in sys.argv[1:] or FAMILIES:
    make(name)

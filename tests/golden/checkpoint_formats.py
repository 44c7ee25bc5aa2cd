"""Golden files of tests/common/checkpoint, made by the reference implementations.

    pip install numpy safetensors gguf
    python tests/golden/checkpoint_formats.py      # writes beside itself

ggml_blocks.safetensors: for each quantised type random blocks (TYPE.blocks, U8) and what gguf.quants makes of them (TYPE.values, F32).
plain_types.safetensors: the same numbers as F32, F64, F16, BF16 (bytes by hand), and integers.
tiny.gguf: metadata of every type and tensors of five, with values that gguf_test.cc knows.
"""
import os
import struct

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(1)


def random_blocks(kind, count):
    """Random bytes whose scales are finite halves, some of them zero, negative or subnormal."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind.name]
    for at in halves:
        scales = (rng.standard_normal(count) * 0.1).astype(np.float16)
        scales[0] = np.float16(3e-6)  # subnormal
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(count, 2)
    return blocks


tensors = {}
for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]:
    kind = gguf.GGMLQuantizationType[name]
    blocks = random_blocks(kind, 2 if name.endswith("K") else 4)
    tensors[name + ".blocks"] = blocks
    tensors[name + ".values"] = dequantize(blocks, kind).astype(np.float32).reshape(-1)
save_file(tensors, os.path.join(HERE, "ggml_blocks.safetensors"), metadata={"made_by": "gguf.quants"})

values = np.array([[0.0, -0.0, 1.0, -2.5], [3.140625, 65504.0, 5.9604645e-08, -0.333251953125]], dtype=np.float32)
save_file({
    "f32": values, "f64": values.astype(np.float64), "f16": values.astype(np.float16),
    "i64": np.arange(3, dtype=np.int64), "u8": np.arange(5, dtype=np.uint8), "bool": np.array([True, False]),
    "scalar": np.array(7.0, dtype=np.float32), "empty": np.zeros((0, 4), dtype=np.float32),
}, os.path.join(HERE, "plain_types.safetensors"), metadata={"format": "pt"})

writer = gguf.GGUFWriter(os.path.join(HERE, "tiny.gguf"), "llama")
writer.add_uint8("a.u8", 255)
writer.add_int8("a.i8", -128)
writer.add_uint16("a.u16", 65535)
writer.add_int16("a.i16", -32768)
writer.add_uint32("a.u32", 4294967295)
writer.add_int32("a.i32", -2147483648)
writer.add_uint64("a.u64", 18446744073709551615)
writer.add_int64("a.i64", -9223372036854775808)
writer.add_float32("a.f32", 1e-5)
writer.add_float64("a.f64", 1e-300)
writer.add_bool("a.bool", True)
writer.add_string("a.string", "h\u00e9llo\n")
writer.add_array("a.strings", ["<s>", "", "\u0120the"])
writer.add_array("a.ints", [-1, 0, 7])
writer.add_array("a.floats", [0.5, -1.5])
writer.add_array("a.bools", [True, False])
writer.add_tensor("plain.f32", np.arange(6, dtype=np.float32).reshape(2, 3))
writer.add_tensor("plain.f16", np.arange(4, dtype=np.float16))
bf16 = np.array([0x3F80, 0xC000, 0x3F00], dtype=np.uint16)  # 1, -2, 0.5
writer.add_tensor("plain.bf16", bf16.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
matrix = (np.arange(64, dtype=np.float32).reshape(2, 32) - 31.5) / 8
for name in ["Q8_0", "Q4_1"]:
    kind = gguf.GGMLQuantizationType[name]
    writer.add_tensor("quantised." + name, gguf.quants.quantize(matrix, kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

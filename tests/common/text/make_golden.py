"""Writes golden_tokenizers.json: small tokenizers of every kind, texts, and what Hugging Face `tokenizers` makes of them.

    pip install tokenizers
    python tests/common/text/make_golden.py > tests/common/text/golden_tokenizers.json
"""
import json
import os
import sys

import tokenizers
from tokenizers import models, trainers, pre_tokenizers

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "..", "scripts"))
from check_tokenizers import GREETINGS, LLAMA3, QWEN2, QWEN35, byte_alphabet, byte_level, sequence, split

DEEPSEEK = sequence(
    split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
    split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
    byte_level(False))
TEXTS = ["", " ", "Hello, world! It's 2024.", "we'LL they'Re I'M 'ſ '' 'x", "  two  spaces\n\n\n  three   ", "\t\r\n \r\n x", "1234567 890 ٣٤ ½ Ⅷ",
         "你好，世界 こんにちは カタカナ", "e\u0301 é Å \u212B ﬁ", "👍👨\u200d👩\u200d👧 🏽", "\u0301\u0301a\u0301 b", "a\u00a0b\u3000c\u200bd", "$x+1==y; // {a}",
         "<s>hi</s> <s>", "qux quxqux _qux qux.", "x  <l> y <r>  z <both>  w", "Hello World hello world", "the cat and the hat then", "\x00\x01\x7f", "zß İstanbul",
         "▁under ▁▁ score", "<0x41>"] + GREETINGS[1:4]


def added(*tokens):
    return [dict(id=i, content=c, single_word="single" in f, lstrip="left" in f, rstrip="right" in f, normalized="normalized" in f, special="special" in f)
            for i, c, f in tokens]


def main():
    corpus = [t for t in TEXTS if "qux" not in t] * 3 + ["the then there and hand hat that cat"] * 20
    byte_trainer = trainers.BpeTrainer(vocab_size=256 + 60, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    byte_bpe = tokenizers.Tokenizer(models.BPE())
    byte_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_bpe.train_from_iterator(corpus, byte_trainer)
    char_bpe = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    char_bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    char_bpe.train_from_iterator(["▁the ▁then the and"] * 5 + TEXTS[:3], trainers.BpeTrainer(
        vocab_size=330, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    unigram = tokenizers.Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(["the then there and hand hat that cat"] * 20 + TEXTS[:5], trainers.UnigramTrainer(
        vocab_size=90, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>"]))
    words = {w: i for i, w in enumerate(["<unk>", "the", "cat", "Hello", "world", ",", "hat", "foo", "hello", "1", "12", "."])}
    model_list = {"byte_bpe": json.loads(byte_bpe.to_str())["model"], "char_bpe": json.loads(char_bpe.to_str())["model"],
                  "unigram": json.loads(unigram.to_str())["model"], "words": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}}

    byte_decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    n = len(model_list["byte_bpe"]["vocab"])
    specials = added((n, "<s>", "special"), (n + 1, "</s>", "special"), (n + 2, "qux", "single"), (n + 3, "<l>", "left special"), (n + 4, "<r>", "right"),
                     (n + 5, "<both>", "left right"), (n + 6, "Hello World", "normalized"))
    llama_decoder = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    digits = {"type": "Digits", "individual_digits": True}
    char_added = added((0, "<unk>", "special"), (1, "<s>", "special"), (2, "</s>", "special"))
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                         {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {c: {"id": c, "ids": [i], "tokens": [c]} for i, c in [(n, "<s>"), (n + 1, "</s>")]}}
    # name, model, normalizer, pre_tokenizer, post_processor, decoder, added_tokens, changes to the model
    rows = [
        ("gpt2", "byte_bpe", None, byte_level(True), template, byte_decoder, specials, {}),
        ("gpt2_prefix_space", "byte_bpe", None, byte_level(True, prefix=True), None, byte_decoder, specials, {}),
        ("smollm2", "byte_bpe", None, sequence(digits, byte_level(True)), None, byte_decoder, specials, {}),
        ("llama3", "byte_bpe", None, sequence(split(LLAMA3), byte_level(False)), None, byte_decoder, specials, {"ignore_merges": True}),
        ("qwen2", "byte_bpe", {"type": "NFC"}, sequence(split(QWEN2), byte_level(False)), None, byte_decoder, specials, {}),
        ("qwen35", "byte_bpe", {"type": "NFC"}, sequence(split(QWEN35), byte_level(False)), None, byte_decoder, specials, {}),
        ("deepseek3", "byte_bpe", {"type": "Sequence", "normalizers": []}, DEEPSEEK, None, byte_decoder, specials, {}),
        ("other_regex", "byte_bpe", {"type": "Lowercase"}, sequence(split(r"\w+|[^\w\s]|\s+"), byte_level(False)), None, byte_decoder, specials, {}),
        ("llama2", "char_bpe", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
         None, None, llama_decoder, char_added, {}),
        ("unk_without_fallback", "char_bpe", {"type": "NFKD"}, metaspace, None, metaspace, char_added, {"byte_fallback": False, "fuse_unk": False}),
        ("unigram", "unigram", {"type": "NFKC"}, metaspace, None, metaspace, [], {}),
        ("unigram_first", "unigram", {"type": "Strip", "strip_left": True, "strip_right": False}, dict(metaspace, prepend_scheme="first", split=False), None,
         dict(metaspace, prepend_scheme="first"), added((0, "<unk>", "special"), (1, "<s>", "special")), {}),
        ("whitespace_words", "words", {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}, {"type": "Whitespace"}, None, None, [], {}),
        ("contiguous", "words", None, sequence({"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": False},
                                               {"type": "Punctuation", "behavior": "Contiguous"}), None, {"type": "Fuse"}, [], {}),
        ("merged_with_next", "words", None, split("[aeiou]", "MergedWithNext"), None, None, [], {}),
        ("merged_with_previous", "words", None, split("[aeiou]", "MergedWithPrevious"), None, None, [], {}),
        ("removed_inverted", "words", None, split(r"[a-zA-Z]+", "Removed", True), None, None, [], {}),
    ]
    cases = []
    for name, model, normalizer, pre, post, decoder, tokens, changes in rows:
        spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre,
                "post_processor": post, "decoder": decoder, "model": dict(model_list[model], **changes)}
        theirs = tokenizers.Tokenizer.from_str(json.dumps(spec))
        spec["model"] = {"base": model, "changes": changes}
        ids = [theirs.encode(t, add_special_tokens=False).ids for t in TEXTS]
        theirs.encode_special_tokens = True
        cases.append({"name": name, "tokenizer": spec, "ids": ids, "decoded": [theirs.decode(i, skip_special_tokens=False) for i in ids],
                      "decoded_skipping": [theirs.decode(i, skip_special_tokens=True) for i in ids],
                      "unparsed": [theirs.encode(t, add_special_tokens=False).ids for t in TEXTS[13:17]],
                      "with_special": theirs.encode(TEXTS[2]).ids})
    dump = lambda value: json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    print('{"models":{\n' + ",\n".join(f"{dump(k)}:{dump(v)}" for k, v in model_list.items()) + '},\n"texts":' + dump(TEXTS) + ',\n"cases":[\n'
          + ",\n".join(map(dump, cases)) + "]}")


main()

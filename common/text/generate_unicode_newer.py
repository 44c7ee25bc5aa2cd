"""Writes unicode_newer.inc: the code points that the regex engine of Hugging Face `tokenizers` counts to a Unicode property and that
Unicode 14 (the oldest PCRE2 that we build with) does not know.

    python3.11 common/text/generate_unicode_newer.py > common/text/unicode_newer.inc

Needs `pip install tokenizers` and a Python with Unicode 14 (3.11); the versions that made the committed file are in its first line.
"""
import textwrap
import unicodedata

import tokenizers
from tokenizers import Regex, pre_tokenizers

UNKNOWN = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and unicodedata.category(chr(c)) == "Cn"]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf".split()
OTHERS = ["Alphabetic", "Uppercase", "Lowercase", "Han", "Hiragana", "Katakana", "Hangul", "Latin", "Cyrillic", "Greek", "Arabic",
          "Hebrew", "Devanagari", "Thai", "Bopomofo"]


def members(name):
    split = pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed")
    found = []
    for start in range(0, len(UNKNOWN), 4096):
        chunk = UNKNOWN[start:start + 4096]
        kept = [False] * len(chunk)
        for _, (begin, end) in split.pre_tokenize_str("".join(map(chr, chunk))):
            for i in range(begin, end):
                kept[i] = True
        found += [c for c, k in zip(chunk, kept) if not k]
    return found


def main():
    assert unicodedata.unidata_version == "14.0.0", "needs a Python with Unicode 14"
    print(f"// Made by generate_unicode_newer.py with tokenizers {tokenizers.__version__}, against Unicode {unicodedata.unidata_version}. "
          "{property, first, last}")
    for name in CATEGORIES + OTHERS:
        ranges = []
        for c in members(name):
            if ranges and ranges[-1][1] + 1 == c:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
        entries = [f'{{"{name}", 0x{first:X}, 0x{last:X}}},' for first, last in ranges]
        if entries:
            print("\n".join(textwrap.wrap(" ".join(entries), 120)))


main()

"""Writes unicode_ranges.inc: the character classes as Hugging Face `tokenizers` sees them (its Oniguruma, regex crate and Rust
standard library carry Unicode versions of their own, newer than the ICU of most systems).

    python common/text/generate_unicode_classes.py > common/text/unicode_ranges.inc

Needs `pip install tokenizers`; the version that made the committed file is in its first line.
"""
import textwrap

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CHUNK = 4096


def members_by_split(make):
    """Code points that a removing splitter takes away."""
    splitter = make()
    found = []
    for start in range(0, len(CODE_POINTS), CHUNK):
        chunk = CODE_POINTS[start:start + CHUNK]
        text = "".join(map(chr, chunk))
        kept = [False] * len(chunk)
        for _, (begin, end) in splitter.pre_tokenize_str(text):
            for i in range(begin, end):
                kept[i] = True
        found += [c for c, k in zip(chunk, kept) if not k]
    return found


def regex(pattern):
    return lambda: pre_tokenizers.Split(Regex(pattern), "removed")


def digits():
    """Digits has no removing form: with individual digits, each numeric character stands alone between letters."""
    splitter = pre_tokenizers.Digits(individual_digits=False)
    found = []
    for c in CODE_POINTS:
        if len(splitter.pre_tokenize_str("a" + chr(c))) == 2:
            found.append(c)
    return found


def combining_marks():
    strip = normalizers.StripAccents()
    return [c for c in CODE_POINTS if strip.normalize_str(chr(c)) == ""]


def words():
    """\\w of the regex crate: Whitespace joins it to a letter."""
    splitter = pre_tokenizers.Whitespace()
    return [c for c in CODE_POINTS if len(splitter.pre_tokenize_str("a" + chr(c) + "a")) == 1]


def normalizing():
    """What the normalizers know about: decomposes, is part of a decomposition, or has a combining class."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    found = set()
    for c in CODE_POINTS:
        text = chr(c)
        for form in (nfd, nfkd):
            decomposed = form.normalize_str(text)
            if decomposed != text:
                found.add(c)
                if form is nfd:
                    found.update(map(ord, decomposed))
        # A class below 240 moves before U+0345 (class 240), one above 1 behind U+0334 (class 1).
        if nfd.normalize_str("a\u0345" + text)[:2] != "a\u0345" or nfd.normalize_str("a" + text + "\u0334")[-1] != "\u0334":
            found.add(c)
    return sorted(found)


def ranges(members):
    out = []
    for c in members:
        if out and out[-1][1] + 1 == c:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    print(f"// Made by generate_unicode_classes.py with tokenizers {tokenizers.__version__}. {{first, last, class}}")
    classes = [
        ("kLetter", members_by_split(regex(r"\p{L}"))),
        ("kMark", members_by_split(regex(r"\p{M}"))),
        ("kNumber", members_by_split(regex(r"\p{N}"))),
        ("kPunctuation", members_by_split(regex(r"\p{P}"))),
        ("kSymbol", members_by_split(regex(r"\p{S}"))),
        ("kSpace", members_by_split(regex(r"\s"))),
        ("kSplitPunctuation", members_by_split(lambda: pre_tokenizers.Punctuation("removed"))),
        ("kSplitNumber", digits()),
        ("kCombining", combining_marks()),
        ("kWord", words()),
        ("kNormalizing", normalizing()),
        ("kUpperLike", members_by_split(regex(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"))),
        ("kLowerLike", members_by_split(regex(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"))),
        ("kHan", members_by_split(regex(r"\p{Han}"))),
    ]
    for name, members in classes:
        entries = [f"{{0x{first:X}, 0x{last:X}, {name}}}," for first, last in ranges(members)]
        print("\n".join(textwrap.wrap(" ".join(entries), 120)))


main()

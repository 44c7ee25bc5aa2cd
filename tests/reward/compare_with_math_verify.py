#!/usr/bin/env python3
"""Math-Verify on the shared cases, for the table in docs/rewards.md: pip install math-verify, then compare_with_math_verify.py CASES.jsonl ..."""
import json
import logging
import sys
import time

from math_verify import parse, verify

logging.disable(logging.CRITICAL)
for path in sys.argv[1:]:
    rows = [json.loads(line) for line in open(path)]
    bare = "math_equivalence" in path  # Math-Verify finds bare LaTeX only inside $ or a box
    start = time.time()
    right = {True: 0, False: 0}
    for row in rows:
        gold, text = row["gold"], row.get("prediction", row.get("response"))
        try:
            gold = parse(gold if "$" in gold or "boxed" in gold else f"${gold}$")
            same = bool(verify(gold, parse(f"\\boxed{{{text}}}" if bare else text)))
        except Exception:
            same = False
        right[row["expect"]] += same
    seconds = time.time() - start
    total = sum(row["expect"] for row in rows)
    print(f"{path}: recall {right[True]}/{total}, false positives {right[False]}/{len(rows) - total}, {len(rows) / seconds:.0f} checks/s", flush=True)

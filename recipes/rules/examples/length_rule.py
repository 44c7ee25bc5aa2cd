#!/usr/bin/env python3
"""A custom rule as a program: JSON lines on stdin and stdout, standard library only.

1 for a completion of at most `limit` characters, falling to 0 at twice that; the row's column `limit`, else 400.
"""
import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    limit = request["row"].get("limit", 400)
    length = len(request["completion"])
    score = max(0.0, min(1.0, 2.0 - length / limit))
    print(json.dumps({"id": request["id"], "score": score, "reason": f"{length} characters"}), flush=True)

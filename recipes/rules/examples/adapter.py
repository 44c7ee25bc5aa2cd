#!/usr/bin/env python3
"""Runs reward functions written for TRL or verl, unchanged: adapter.py trl|verl FILE FUNCTION

    trl    fn(completions, prompts=..., **columns) -> list of float or None   (conversational=no: completions are strings)
    verl   fn(data_source, solution_str, ground_truth, extra_info=None) -> float or {"score": float, ...}

None is "not applicable"; an exception is an error of that completion. What the function prints goes to stderr.
"""
import importlib.util
import json
import sys


def call_trl(function, request):
    columns = {name: [value] for name, value in request["row"].items() if name not in ("prompt", "completion")}
    return function(prompts=[request["prompt"]], completions=[request["completion"]], **columns)[0]


def call_verl(function, request):
    row = request["row"]
    gold = row.get("ground_truth", row.get("answer", row.get("gold")))
    return function(row.get("data_source", ""), request["completion"], gold, extra_info=row.get("extra_info", row))


def main(style, path, name):
    answers, sys.stdout = sys.stdout, sys.stderr
    spec = importlib.util.spec_from_file_location("user_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function, call = getattr(module, name), {"trl": call_trl, "verl": call_verl}[style]
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"id": request["id"]}
        try:
            result = call(function, request)
            answer["score"] = result["score"] if isinstance(result, dict) else None if result is None else float(result)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

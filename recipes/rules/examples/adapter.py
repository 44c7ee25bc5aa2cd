#!/usr/bin/env python3
"""Runs reward functions written for TRL or verl, unchanged: adapter.py trl|verl FILE FUNCTION

    trl    fn(prompts=, completions=, completion_ids=, **columns) -> list of float or None, one value a completion. Completions are lists of messages where
           the row's `prompt` is one, else strings; completion_ids have the right length, their values mean nothing
    verl   fn(data_source=, solution_str=, ground_truth=, extra_info=) -> float or {"score": float, ...}

Coroutines are run. None is "not applicable"; an exception is an error of that completion. What the function prints goes to stderr.
"""
import asyncio
import importlib.util
import inspect
import json
import sys


def call_trl(function, request):
    row, completion = request["row"], request["completion"]
    chat = isinstance(row.get("prompt"), list)
    columns = {name: [value] for name, value in row.items() if name not in ("prompt", "completion", "completion_ids")}
    return function(prompts=[row["prompt"] if chat else request["prompt"]],
                    completions=[[{"role": "assistant", "content": completion}] if chat else completion],
                    completion_ids=[list(range(request["num_tokens"]))], **columns)


def one_score(name, result):
    """The score of the one completion that the function was given."""
    count = len(result) if hasattr(result, "__len__") else None
    if count != 1:
        raise ValueError(f"{name} returned {'no list' if count is None else f'{count} values'} for 1 completion, expected a list of 1 value")
    return result[0]


def call_verl(function, request):
    row = request["row"]
    gold = (row.get("reward_model") or {}).get("ground_truth", row.get("ground_truth", row.get("answer", row.get("gold"))))
    return function(data_source=row.get("data_source", ""), solution_str=request["completion"], ground_truth=gold,
                    extra_info=row.get("extra_info", row))


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
            result = asyncio.run(result) if inspect.iscoroutine(result) else result
            result = one_score(name, result) if style == "trl" else result
            answer["score"] = result["score"] if isinstance(result, dict) else None if result is None else float(result)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Compares our rendering of chat templates with transformers' apply_chat_template on a table of conversations.

    pip install transformers jinja2
    ninja -C build render_chat
    python tests/common/text/compare_chat_templates.py --binary build/tests/common/text/render_chat TEMPLATE.jinja ...

Templates that call strftime_now are compared with that function undefined, since ours never defines it.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

from transformers.utils import chat_template_utils

CONTENTS = ["Hi", "What is 2+2?", "  spaces around \n", "", "<think>\nsteps\n</think>\n\nThe answer is 4.", "<think></think>4", "</think>", "a\nb\n\n", "你好 👍",
            "{{ braces }} {% not a tag %}", "<|im_start|>", "it's \"quoted\" \\ backslash", "<tool_response>x</tool_response>", "é\u00a0"]


def conversations(rng):
    fixed = [["user"], ["system", "user"], ["user", "assistant"], ["system", "user", "assistant", "user"], ["user", "assistant", "user", "assistant"],
             ["user", "user"], ["assistant"], ["system"], ["system", "user", "assistant"], []]
    for roles in fixed * 3 + [rng.choices(["user", "assistant", "system"], k=rng.randint(1, 7)) for _ in range(60)]:
        for generate in (True, False):
            yield {"messages": [{"role": r, "content": rng.choice(CONTENTS)} for r in roles], "add_generation_prompt": generate,
                   "bos_token": "<BOS>", "eos_token": "<EOS>"}


def expected(source, case):
    compiled = chat_template_utils._compile_jinja_template(source)
    compiled.environment.globals.pop("strftime_now", None)
    try:
        return {"text": compiled.render(messages=case["messages"], tools=None, documents=None, add_generation_prompt=case["add_generation_prompt"],
                                        bos_token=case["bos_token"], eos_token=case["eos_token"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("templates", nargs="+")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        cases_path, out_path = os.path.join(folder, "cases"), os.path.join(folder, "out")
        for path in args.templates:
            source = open(path).read()
            cases = list(conversations(random.Random(1)))
            with open(cases_path, "w") as f:
                f.writelines(json.dumps(c) + "\n" for c in cases)
            subprocess.run([args.binary, path, cases_path, out_path], check=True)
            ours = [json.loads(line) for line in open(out_path)]
            wrong = 0
            for case, our in zip(cases, ours):
                their = expected(source, case)
                if ("error" in our) == ("error" in their) and our.get("text") == their.get("text"):
                    continue
                wrong += 1
                if wrong <= 2:
                    print(f"  {case}\n    ours   {our}\n    theirs {their}")
            errors = sum("error" in o for o in ours)
            failed |= wrong > 0
            print(f"{os.path.basename(path)}: {len(cases)} conversations, {wrong} differences, {errors} errors on both sides")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

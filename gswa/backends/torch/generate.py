"""Answers of a base model to many prompts, some at a time."""

import time
from typing import Any

import torch

from gswa.backends.base import Report
from gswa.backends.torch.data import pad_token
from gswa.dataset import Tokenizer, render_prompt
from gswa.errors import Interrupted
from gswa.files import read_lines
from gswa.records import Answer, Prompt, TrainJob

PROMPTS_FILE = "prompts.jsonl"


@torch.no_grad()
def write_answers(model: Any, tokenizer: Tokenizer, job: TrainJob, report: Report) -> None:
    """Greedily, in the order of the file, `eval_batch_size` prompts at a time."""
    prompts = [Prompt.model_validate(line) for line in read_lines(job.data / PROMPTS_FILE)]
    model.eval()
    speed = 0.0
    for batch in _batches(prompts, job.config.eval_batch_size):
        if report.stop_requested():
            raise Interrupted("stopped by a signal; what was written is kept", exit_code=75)
        inputs = _inputs(batch, tokenizer, model.device)
        speed = speed or _forward_tokens_per_sec(model, inputs)
        started = time.monotonic()
        answers = _answers(model, tokenizer, batch, inputs)
        report.answers(answers, time.monotonic() - started, speed)


def _batches(prompts: list[Prompt], size: int) -> list[list[Prompt]]:
    return [prompts[at : at + size] for at in range(0, len(prompts), size)]


def _inputs(batch: list[Prompt], tokenizer: Tokenizer, device: Any) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask of shape (prompts, longest prompt), padded on the left: answers follow on the right."""
    rows = [render_prompt(tokenizer, prompt.messages) for prompt in batch]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token(tokenizer))
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _forward_tokens_per_sec(model: Any, inputs: dict[str, torch.Tensor]) -> float:
    """Of the second pass: the first one warms up."""
    for _ in range(2):
        started = time.monotonic()
        model(**inputs, logits_to_keep=1)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
    return int(inputs["attention_mask"].sum()) / max(seconds, 1e-9)


def _answers(model: Any, tokenizer: Tokenizer, batch: list[Prompt], inputs: dict[str, torch.Tensor]) -> list[Answer]:
    pad = pad_token(tokenizer)
    out = model.generate(
        **inputs,
        max_new_tokens=max(prompt.max_new_tokens for prompt in batch),
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
    )
    answers = []
    for prompt, row in zip(batch, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        text = tokenizer.decode(row[: prompt.max_new_tokens], skip_special_tokens=True).strip()
        answers.append(Answer(id=prompt.id, text=text, tokens=sum(token != pad for token in row)))
    return answers

"""Held-out loss and samples of a model in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gswa.backends.torch.data import Chunks, eval_batches
from gswa.backends.torch.loss import IGNORED
from gswa.config import RunConfig
from gswa.dataset import Tokenizer, render_prompt
from gswa.errors import Interrupted
from gswa.records import Message


class Loss(NamedTuple):
    """`mean` in nats per target token, over `tokens` of them; the same whatever the batch size."""

    mean: float
    tokens: int


@torch.no_grad()
def held_out_loss(model: Any, data: Chunks, config: RunConfig, pad: int, stopped: Callable[[], bool]) -> Loss:
    """Raises Interrupted where `stopped`, asked before each batch, says yes."""
    training, total, tokens = model.training, 0.0, 0
    model.eval()
    try:
        for batch in eval_batches(data, config, pad, model.device):
            if stopped():
                raise Interrupted("stopped while evaluating", exit_code=75)
            total += float(model(**batch, num_items_in_batch=1).loss)
            tokens += int((batch["labels"][:, 1:] != IGNORED).sum())
    finally:
        model.train(training)
    return Loss(total / max(tokens, 1), tokens)


@torch.no_grad()
def answer(model: Any, tokenizer: Tokenizer, messages: tuple[Message, ...], max_new_tokens: int = 200) -> str:
    """Greedy answer to a chat that ends with the user."""
    prompt = torch.tensor([render_prompt(tokenizer, messages)], device=model.device)
    out = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),  # or generate() would mask the pad id where it occurs as text
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)).strip()

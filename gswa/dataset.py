"""One chat rendering for every backend, and its loss mask.

messages   user: Hi    assistant: Yes
rendered   <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nYes<|im_end|>\\n
mask       ................................................................++++++++++..      + carries loss
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gswa.errors import DataError
from gswa.records import Message

Tokenizer = Any  # transformers' PreTrainedTokenizerFast; its import costs a second, so that only load_tokenizer pays

PLACE_HOLDER = "\ue000"  # private use: no template and no paper says it


class Encoding(NamedTuple):
    """`offsets` are (start, end) character positions of each token of `ids` in the text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Rendered(NamedTuple):
    """A chat as the model sees it; `mask` is True on tokens that carry loss. Both have one entry per token."""

    ids: list[int]
    mask: list[bool]


def load_tokenizer(model: Path | str) -> Tokenizer:
    """The tokenizer of a model's folder. Raises DataError when it is not a fast one or has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    if not tokenizer.is_fast:
        raise DataError(f"{model}: has no tokenizer.json; splitting needs the character offsets of a fast tokenizer")
    if not tokenizer.chat_template:
        raise DataError(f"{model}: its tokenizer has no chat template; choose an instruction-tuned model")
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> Encoding:
    """Token ids and offsets of plain text: what looks like a special token in it stays text."""
    return _encode(tokenizer, text, [(0, len(text))])


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """The chat as the model's template renders it, with loss on the assistant's words and end-of-turn token only.

    Raises DataError for a template that rewrites earlier turns: no mask would be right for it.
    """
    chat = [message.model_dump() for message in messages]
    text = _template(tokenizer, chat)
    spans = []
    for i, message in enumerate(messages):
        if message.role == "assistant":
            before = _template(tokenizer, chat[:i], prompt=True)
            after = _template(tokenizer, chat[: i + 1]).rstrip()
            if not text.startswith(before) or not text.startswith(after):
                raise DataError("the model's chat template rewrites earlier turns, so no loss mask is right for it; choose another model")
            spans.append((len(before), len(after)))
    ids, offsets = _encode(tokenizer, text, _contents(tokenizer, text, messages))
    mask = [any(start < end and first <= start and end <= last for first, last in spans) for start, end in offsets]
    return Rendered(ids, mask)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat that waits for the assistant's answer."""
    text = _template(tokenizer, [message.model_dump() for message in messages], prompt=True)
    return _encode(tokenizer, text, _contents(tokenizer, text, messages)).ids


def _template(tokenizer: Tokenizer, chat: list[dict[str, Any]], prompt: bool = False) -> str:
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))


def _contents(tokenizer: Tokenizer, text: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Where the words of each message that looks like it holds a special token stand in the rendered text.

    Found by rendering a place-holder in the message's stead: its words alone might be found in the template's own.
    """
    special = _special_pattern(tokenizer)
    chat = [message.model_dump() for message in messages]
    spans = []
    for i, message in enumerate(messages):
        if special.search(message.content):
            start = _template(tokenizer, [*chat[:i], {**chat[i], "content": PLACE_HOLDER}]).find(PLACE_HOLDER)
            content = next((c for c in (message.content, message.content.strip()) if text.startswith(c, start)), None)
            if start < 0 or content is None:
                raise DataError("the model's chat template changes the words of a message; choose another model")
            spans.append((start, start + len(content)))
    return spans


def _encode(tokenizer: Tokenizer, text: str, plain: Iterable[tuple[int, int]]) -> Encoding:
    """Encode with special tokens recognised only outside the `plain` spans.

    A literal such as <|im_end|> in a paper is encoded in two halves, since a tokenizer sees special tokens everywhere.
    """
    special = _special_pattern(tokenizer)
    cuts = [match.start() + 1 for start, end in plain for match in special.finditer(text, start, end)]
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        part = tokenizer.backend_tokenizer.encode(text[start:end], add_special_tokens=False)
        ids += part.ids
        offsets += [(a + start, b + start) for a, b in part.offsets]
    return Encoding(ids, offsets)


def _special_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    literals = sorted((t for t in tokenizer.get_added_vocab() if len(t) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, literals)) or r"(?!)")

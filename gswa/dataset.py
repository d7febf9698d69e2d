"""One chat rendering for every backend, its loss mask and its length.

messages   user: Hi    assistant: Yes
rendered   <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nYes<|im_end|>\\n
mask       ................................................................++++++++++..      + carries loss
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gswa.errors import DataError
from gswa.records import Message
from gswa.tokens import Line, encode, free_mark, special_marks
from gswa.tokens import Tokenizer as Tokenizer

Span: TypeAlias = tuple[int, int]

CHARACTERS_AT_ONCE = 1_000_000


class Rendered(NamedTuple):
    """A chat as the model sees it; `mask` is True on tokens that carry loss. Both have one entry per token."""

    ids: list[int]
    mask: list[bool]


class Lengths(NamedTuple):
    """Tokens of a rendered chat, and those of them that carry loss."""

    tokens: int
    target_tokens: int


def load_tokenizer(model: Path | str) -> Tokenizer:
    """The tokenizer of a model's folder. Raises DataError when it is not a fast one or has no chat template."""
    tokenizer = _tokenizer_class(Path(model)).from_pretrained(str(model), local_files_only=True)
    if not tokenizer.is_fast:
        raise DataError(f"{model}: has no tokenizer.json; splitting needs the character offsets of a fast tokenizer")
    if not tokenizer.chat_template:
        raise DataError(f"{model}: its tokenizer has no chat template; choose an instruction-tuned model")
    tokenizer.backend_tokenizer.no_truncation()  # some tokenizer.json bring a limit along, at which text would be cut without a word
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _tokenizer_class(model: Path) -> Any:
    """AutoTokenizer imports torch to look for the model's own class (3 CPU-seconds), which a plain tokenizer.json has not."""
    file = model / "tokenizer_config.json"
    named = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class") if file.is_file() else None
    if named in ("PreTrainedTokenizerFast", "TokenizersBackend") and (model / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """The chat as the model's template renders it, with loss on the assistant's words and end-of-turn token only.

    Raises DataError where the template refuses the chat, or rewrites its earlier turns: no mask would be right for it.
    """
    (rendered,) = render_all(tokenizer, [messages])
    return rendered


def render_all(tokenizer: Tokenizer, chats: Iterable[Sequence[Message]]) -> Iterator[Rendered]:
    """`render` for many chats, several at a time on all cores."""
    return (Rendered(line.ids, _mask(line, answers)) for line, answers in _lines(tokenizer, chats))


def lengths(tokenizer: Tokenizer, chats: Iterable[Sequence[Message]]) -> Iterator[Lengths]:
    """What `render_all` would count, for less than its time."""
    return (Lengths(len(line.ids), sum(line.count(*answer) for answer in answers)) for line, answers in _lines(tokenizer, chats))


def check_renders(tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
    """Raises DataError where `render` would."""
    _rendered(tokenizer, messages)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids of a chat that waits for the assistant's answer."""
    text = _template(tokenizer, _turns(messages), prompt=True)
    line = Line(text, _marks(tokenizer, text, messages))
    encode(tokenizer, [line])
    return line.ids


# -- the template ----------------------------------------------------------------------------------------------------------
def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _template(tokenizer: Tokenizer, chat: list[dict[str, str]], prompt: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt))
    except TemplateError as error:
        raise DataError(f"the model's chat template refuses the chat ({error})") from error


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[Line, list[Span]]:
    """The text of a chat, and where in it the assistant speaks."""
    chat = _turns(messages)
    text = _template(tokenizer, chat)
    answers = []
    for i, message in enumerate(messages):
        if message.role == "assistant":
            last = i == len(chat) - 1
            start = _last_answer(tokenizer, text, message.content) if last else None
            before = _template(tokenizer, chat[:i], prompt=True) if start is None else text[:start]
            after = (text if last else _template(tokenizer, chat[: i + 1])).rstrip()
            if not text.startswith(before) or not text.startswith(after):
                raise DataError("the model's chat template rewrites earlier turns, so no loss mask is right for it; choose another model")
            if start is None and message.content.strip() not in after[len(before) :]:
                raise DataError("the model's chat template leaves out or changes words of the answer")
            answers.append((len(before), len(after)))
    return Line(text, _marks(tokenizer, text, messages)), answers


@lru_cache(maxsize=8)
def answer_opening(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """What stands before an answer, from the last special token on, and what more the template puts between that and its first word.
    None where a chat does not go on as its prompt ends."""
    asked, answer = [{"role": "user", "content": "."}], {"role": "assistant", "content": "."}
    try:
        prompt, whole = _template(tokenizer, asked, prompt=True), _template(tokenizer, [*asked, answer])
    except DataError:
        return None
    gap, said, _ = whole[len(prompt) :].partition(".")
    before = prompt[max(special_marks(tokenizer, prompt), default=1) - 1 :]
    return (before, gap) if said and before and not gap.strip() and whole.startswith(prompt) else None


def _last_answer(tokenizer: Tokenizer, text: str, content: str) -> int | None:
    """Where the answer at the end of a rendered chat begins, where its words tell: rendering the prompt alone takes as long as all."""
    opening, words = answer_opening(tokenizer), content.strip()
    if opening is None or not words:
        return None
    before, gap = opening
    start = text.rfind(words) - len(gap)
    return start if text.startswith(gap + words, start) and text.endswith(before, 0, start) else None


def _marks(tokenizer: Tokenizer, text: str, messages: Sequence[Message]) -> list[int]:
    """Where in the rendered text the messages' own words must be broken up.

    The words are found by rendering a mark in their stead: they might stand in the template's own text as well.
    """
    marks: list[int] = []
    for i, message in enumerate(messages):
        if special_marks(tokenizer, message.content):
            mark = free_mark(text)
            chat = _turns(messages[: i + 1])
            start = _template(tokenizer, [*chat[:i], {**chat[i], "content": mark}]).find(mark)
            content = next((c for c in (message.content, message.content.strip()) if text.startswith(c, start)), None)
            if start < 0 or content is None:
                raise DataError("the model's chat template changes the words of a message; choose another model")
            marks += special_marks(tokenizer, text, start, start + len(content))
    return marks


def _mask(line: Line, answers: list[Span]) -> list[bool]:
    mask = np.zeros(len(line.ids), dtype=bool)
    for answer in answers:
        mask |= line.within(*answer)
    return list(mask.tolist())


def _lines(tokenizer: Tokenizer, chats: Iterable[Sequence[Message]]) -> Iterator[tuple[Line, list[Span]]]:
    """Encoded chats, and where in them the assistant speaks; so many at a time as make so much text."""
    some: list[tuple[Line, list[Span]]] = []
    size = 0
    for messages in chats:
        some.append(_rendered(tokenizer, messages))
        size += len(some[-1][0].text)
        if size > CHARACTERS_AT_ONCE:
            yield from _encoded(tokenizer, some)
            some, size = [], 0
    yield from _encoded(tokenizer, some)


def _encoded(tokenizer: Tokenizer, lines: list[tuple[Line, list[Span]]]) -> list[tuple[Line, list[Span]]]:
    encode(tokenizer, [line for line, _ in lines])
    return lines

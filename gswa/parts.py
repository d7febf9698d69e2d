"""Example → Chunks, none longer than the limit as the chat template renders it, and nothing lost.

A chunk is a span of characters of its example's target; spans are in order and only white space lies between them. Part 1
keeps the user's prompt, each later part is asked to continue the sentences before it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gswa.config import Strategy
from gswa.dataset import Rendered, Tokenizer, encode, render
from gswa.errors import ConfigError
from gswa.lengths import Divided
from gswa.passages import CONTINUE_KIND
from gswa.records import Chunk, Example, Message
from gswa.spans import Budget, Measured, Span, context_start, measured, plan

CONTINUE = "Continue the text from where this part of it ends."
OPEN = "Write the opening of a text."
CONTEXT_SHARE = 8  # a later part may spend one token in so many on the text before it

EMPTY = "the answer is empty"
LONG_PROMPT = "the prompt leaves less than a quarter of the limit for the answer"
NO_ROOM = "no cut keeps the answer under the limit"


class Rules(NamedTuple):
    """`max_tokens` counts the whole rendered chat; `overlap` is text before a later part, in tokens that carry no loss."""

    tokenizer: Tokenizer
    max_tokens: int
    strategy: Strategy = "auto"
    overlap: int = 0


def split_examples(examples: Iterable[Example], rules: Rules) -> Iterator[Divided]:
    """Each example with its chunks, or with the reason why it has none. Raises ConfigError for an overlap over half the limit."""
    if not 0 <= rules.overlap <= rules.max_tokens // 2:
        raise ConfigError(f"--overlap {rules.overlap}: must lie between 0 and half of the limit ({rules.max_tokens // 2} tokens)")
    return (divide(example, rules) for example in examples)


def divide(example: Example, rules: Rules) -> Divided:
    rendered = render(rules.tokenizer, example.messages)
    tokens = len(rendered.ids)
    if not example.target.strip():
        return Divided(example=example, tokens=tokens, reason=EMPTY)
    if tokens <= rules.max_tokens:
        whole = _chunk(example, example.messages, rendered, span=(0, len(example.target)))
        return Divided(example=example, tokens=tokens, chunks=(whole,))
    prompt = _fitting_prompt(example, rules)
    if prompt is None:
        return Divided(example=example, tokens=tokens, reason=LONG_PROMPT)
    chunks = _chunks(example, prompt, rules)
    return Divided(example=example, tokens=tokens, chunks=chunks, reason="" if chunks else NO_ROOM)


def divide_span(example: Example, span: Span, rules: Rules) -> Divided:
    """Chunks of a part of the target, each with its span in the whole of it: what is left to train after the limit fell.

    Unless the part is the beginning, it is asked for as a later part is: by the sentences before it.
    """
    start, end = span
    prompt = example.messages[:-1]
    if start > 0:
        prompt = _continuation(
            example, _context(_measure(example.target, rules), start, max(rules.max_tokens // CONTEXT_SHARE, rules.overlap))
        )
    piece = example.model_copy(update={"messages": (*prompt, Message(role="assistant", content=example.target[start:end]))})
    divided = divide(piece, rules)
    moved = tuple(chunk.model_copy(update={"span": (chunk.span[0] + start, chunk.span[1] + start)}) for chunk in divided.chunks)
    return Divided(example=example, tokens=divided.tokens, chunks=moved, reason=divided.reason)


# -- the target ----------------------------------------------------------------------------------------------------------
def _chunks(example: Example, prompt: tuple[Message, ...], rules: Rules) -> tuple[Chunk, ...]:
    """The target in parts that fit, none where that cannot be done.

    Tokens merge differently at a cut and at the template's borders, so each part is rendered; what is over shrinks the
    budget, and the cuts are planned anew.
    """
    text = _measure(example.target, rules)
    room = max(rules.max_tokens // CONTEXT_SHARE, rules.overlap)
    later = _prompt_tokens(_continuation(example, ""), rules) + room
    budget = Budget(rules.max_tokens - _prompt_tokens(prompt, rules), rules.max_tokens - later)
    while spans := plan(text, budget, rules.strategy):
        prompts = [prompt, *(_continuation(example, _context(text, end, room)) for _, end in spans[:-1])]
        chunks = tuple(_part(example, prompts, spans, number, rules) for number in range(len(spans)))
        over = [max(0, chunk.tokens - rules.max_tokens) for chunk in chunks]
        if not any(over):
            return chunks
        budget = Budget(budget.first - over[0], budget.rest - max(over[1:], default=0))
    return ()


def _part(example: Example, prompts: list[tuple[Message, ...]], spans: list[Span], number: int, rules: Rules) -> Chunk:
    messages = (*prompts[number], Message(role="assistant", content=example.target[slice(*spans[number])]))
    return _chunk(example, messages, render(rules.tokenizer, messages), spans[number], number + 1, len(spans))


def _chunk(example: Example, messages: tuple[Message, ...], rendered: Rendered, span: Span, part: int = 1, parts: int = 1) -> Chunk:
    own = {"part": part, "parts": parts, "span": span, "tokens": len(rendered.ids), "target_tokens": sum(rendered.mask)}
    return Chunk.model_validate({**dict(example), **own, "messages": messages})


# -- the prompt ----------------------------------------------------------------------------------------------------------
def _continuation(example: Example, context: str) -> tuple[Message, ...]:
    system = tuple(message for message in example.messages[:1] if message.role == "system")
    return (*system, _asked(CONTINUE, context))


def _asked(instruction: str, context: str) -> Message:
    return Message(role="user", content=f"{instruction}\n\n{context}" if context else instruction)


def _context(text: Measured, end: int, tokens: int) -> str:
    return text.text[context_start(text, end, tokens) : end].strip()


def _fitting_prompt(example: Example, rules: Rules) -> tuple[Message, ...] | None:
    """The messages before the answer, where they leave it a quarter of the limit; None where only a cut could do that.

    A `continue` example's context, after the first blank line, may be shortened, since it is the target of another
    example; then half of the limit is left for the answer.
    """
    prompt = example.messages[:-1]
    if _prompt_tokens(prompt, rules) <= rules.max_tokens * 3 // 4:
        return prompt
    if example.kind != CONTINUE_KIND:
        return None
    instruction, _, context = prompt[-1].content.partition("\n\n")
    for shorter in (instruction, CONTINUE if context else OPEN):
        fitting = _shortened((*prompt[:-1], _asked(shorter, "")), context, rules)
        if fitting:
            return fitting
    return None


def _shortened(bare: tuple[Message, ...], context: str, rules: Rules) -> tuple[Message, ...] | None:
    """A prompt with as much of the end of its context as half of the limit holds; None where that is next to nothing."""
    room = rules.max_tokens // 2 - _prompt_tokens(bare, rules)
    if not context:
        return bare if room >= 0 else None
    text = _measure(context, rules)
    while room >= rules.max_tokens // (2 * CONTEXT_SHARE):
        prompt = (*bare[:-1], _asked(bare[-1].content, _context(text, len(context), room)))
        over = _prompt_tokens(prompt, rules) - rules.max_tokens // 2
        if over <= 0:
            return prompt
        room -= over
    return None


def _prompt_tokens(prompt: tuple[Message, ...], rules: Rules) -> int:
    """Tokens of a chat beside the words of its answer."""
    return len(render(rules.tokenizer, (*prompt, Message(role="assistant", content="."))).ids) - 1


def _measure(text: str, rules: Rules) -> Measured:
    return measured(text, encode(rules.tokenizer, text).offsets)

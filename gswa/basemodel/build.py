"""How the built-in base model is made: a small Llama, pretrained for a few CPU-minutes on text every Python brings along.

`python -m gswa.basemodel build` runs it. The same seed gives the same data and first weights, but not the same last bits:
the number of steps depends on the machine.
"""

import hashlib
import importlib
import inspect
import json
import logging
import math
import platform
import random
import shutil
import sysconfig
import time
import warnings
from ast import AsyncFunctionDef, ClassDef, FunctionDef, Module, get_docstring, parse, walk
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gswa.config import BUILTIN_MODEL
from gswa.errors import ConfigError

log = logging.getLogger("gswa")

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHAT_TEMPLATE = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT = 2048  # tokens
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Inputs of every linear layer are multiples of 64, or 4-bit quantisation in groups of 64 silently leaves them out.
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
}
VOCABULARY = 1024
PIECE = 3000  # characters; a longer text is cut between paragraphs
HELD_OUT = 50  # one text of so many is kept from training
PEAK_LEARNING_RATE = 3e-3
SHORT, LONG = (8, 256), (2, 1024)  # rows × tokens of a batch: short ones first, long ones so that later positions are trained too
STEPS_PER_STREAM = 400  # then the texts are shuffled and rendered anew
LONG_SHARE = 0.3  # share of the time that goes to long rows

SYSTEMS = ("You write documentation.", "You continue texts in the voice of their author.", "You are a careful technical writer.")
INSTRUCTIONS = ("Continue this text.", "Write the passage that follows.", "Continue in the same voice.", "What comes next?")


class Built(NamedTuple):
    """How a build went; `held_out_loss` in nats per token, on library texts kept from training."""

    steps: int
    tokens: int
    cpu_seconds: float
    held_out_loss: float


def library_texts() -> list[str]:
    """Docstrings and help topics of the Python that runs, each once, in a fixed order (Python's licence, PSF-2.0)."""
    library = Path(sysconfig.get_path("stdlib"))
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    texts = [*topics.values()]
    for file in sorted(library.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(file.relative_to(library).parts):
            texts += _docstrings(file)
    pieces = [piece for text in texts for piece in _pieces(inspect.cleandoc(text))]
    return list(dict.fromkeys(piece for piece in pieces if len(piece) >= 80))


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escapes
            tree = parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the library keeps a few files that are broken on purpose
        return
    for node in walk(tree):
        if isinstance(node, Module | ClassDef | FunctionDef | AsyncFunctionDef):
            yield get_docstring(node) or ""


def _pieces(text: str) -> Iterator[str]:
    """The text cut between paragraphs into pieces of at most PIECE characters (a longer paragraph stays whole)."""
    piece = ""
    for paragraph in text.split("\n\n"):
        if piece and len(piece) + len(paragraph) > PIECE:
            yield piece
            piece = ""
        piece += ("\n\n" if piece else "") + paragraph
    yield piece


def as_chat(text: str, chance: random.Random) -> list[dict[str, str]]:
    """A text as a chat: an instruction with its beginning, and the rest as the answer."""
    cut = text.rfind(" ", 0, int(len(text) * chance.uniform(0.1, 0.5))) + 1
    system = [{"role": "system", "content": chance.choice(SYSTEMS)}] if chance.random() < 0.5 else []
    question = f"{chance.choice(INSTRUCTIONS)}\n\n{text[:cut]}".strip()
    return [*system, {"role": "user", "content": question}, {"role": "assistant", "content": text[cut:]}]


def train_tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        bos_token=None,
        unk_token=None,
        additional_special_tokens=["<|im_start|>", "<|endoftext|>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def fresh_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    special: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), rope_parameters=ROPE, **special, **SHAPE))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 0]  # the end of an answer, or of a plain text
    return model


def _stream(texts: Sequence[str], tokenizer: Any, chance: random.Random) -> tuple[Any, Any]:
    """All texts in a new order, half of them as chats, in one row of token ids; and where each begins."""
    import torch

    rows = [
        tokenizer.apply_chat_template(as_chat(text, chance), tokenize=False) if chance.random() < 0.5 else text
        for text in chance.sample(texts, len(texts))
    ]
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    encoded = [[*ids, end] for ids in tokenizer(rows, add_special_tokens=False)["input_ids"]]
    lengths = torch.tensor([len(ids) for ids in encoded])
    return torch.tensor([token for ids in encoded for token in ids]), lengths.cumsum(0) - lengths


def _batch(stream: Any, starts: Any, rows: int, length: int, generator: Any) -> Any:
    """Rows that begin where a text begins, as they will in use."""
    import torch

    begin = starts[torch.randint(len(starts), (rows,), generator=generator)].clamp(max=len(stream) - length)
    return stream[begin[:, None] + torch.arange(length)]


def learning_rate(step: int, progress: float) -> float:
    """50 steps of warm-up, then a cosine to a tenth; `progress` from 0 to 1."""
    return PEAK_LEARNING_RATE * min(1.0, (step + 1) / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def pretrain(model: Any, tokenizer: Any, texts: Sequence[str], cpu_seconds: float, seed: int) -> tuple[int, int]:
    """Steps and tokens done in `cpu_seconds` of all threads together; the loss is on every token."""
    import torch

    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    step, tokens, begun, progress = 0, 0, time.process_time(), 0.0
    while progress < 1:
        if step % STEPS_PER_STREAM == 0:
            stream, starts = _stream(texts, tokenizer, chance)
        batch = _batch(stream, starts, *(SHORT if progress < 1 - LONG_SHARE else LONG), generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, tokens = step + 1, tokens + batch.numel()
        progress = min(1.0, (time.process_time() - begun) / cpu_seconds)
        if step % 100 == 0:
            log.info("step %d, %.0f %% of the time, loss %.3f", step, 100 * progress, loss.item())
    return step, tokens


def plain_loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Nats per token over the texts, each by itself and cut at the model's context."""
    import torch

    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:CONTEXT]])
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.numel() - 1)
        tokens += ids.numel() - 1
    return total / tokens


def build(out: Path, cpu_seconds: float = 300, seed: int = 0) -> Built:
    """Make the model in a new folder: weights, tokenizer, model card. `cpu_seconds` count all threads together.

    Raises ConfigError where the folder holds something already.
    """
    import torch

    if cpu_seconds <= 0:
        raise ConfigError(f"{cpu_seconds:g} seconds of pretraining: give more than 0 (--seconds)")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: something is there already; give the new model another folder (--out)")
    begun = time.process_time()
    torch.manual_seed(seed)
    texts = random.Random(seed).sample(found := library_texts(), len(found))
    held_out, training = texts[::HELD_OUT], [text for number, text in enumerate(texts) if number % HELD_OUT]
    tokenizer = train_tokenizer(training)
    model = fresh_model(tokenizer)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at this size a second thread mostly waits for the first, and waiting counts as CPU-seconds too
    try:
        steps, tokens = pretrain(model, tokenizer, training, cpu_seconds, seed)
        model.half().float()  # what will be stored is what is measured
        built = Built(steps, tokens, time.process_time() - begun, plain_loss(model.eval(), tokenizer, held_out))
    finally:
        torch.set_num_threads(threads)
    _save(model, tokenizer, out, built)
    return built


def _save(model: Any, tokenizer: Any, out: Path, built: Built) -> None:
    """Into a folder beside `out` first, so that `out` is whole or absent."""
    import torch

    temporary = out.with_name(f".{out.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        model.to(torch.float16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _complete(temporary, built)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _complete(folder: Path, built: Built) -> None:
    """What the libraries leave out: the RoPE base where mlx-lm looks for it, file modes, the model card."""
    config = folder / "config.json"
    settings = {**json.loads(config.read_text(encoding="utf-8")), "rope_theta": ROPE["rope_theta"]}
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    python = ".".join(platform.python_version_tuple()[:2])
    card = CARD.format(
        name=BUILTIN_MODEL,
        sha256=digest,
        python=python,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        uniform=math.log(VOCABULARY),
        **built._asdict(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which another user of the machine could not read


CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A Llama of 0.9 million parameters (4 layers, hidden size 128, byte-level BPE of {vocabulary} tokens, context {context}, ChatML template),
so that GSWA runs where there is no GPU, no network and no model hub. It writes English-looking text and knows nothing:
use it to see the whole path work, and a real base model to get usable text.

- Trained from scratch on the docstrings and help topics of Python {python} (Copyright Python Software Foundation, licence PSF-2.0),
  half of them rendered as chats, and on nothing else.
- {steps} steps, {tokens} tokens, {cpu_seconds:.0f} CPU-seconds. Loss on held-out docstrings: {held_out_loss:.2f} nats per token
  (a uniform guess: {uniform:.2f}).
- Made by `python -m gswa.basemodel build`. Another machine does another number of steps, so it makes a like model, not the same bytes.
- `model.safetensors` (fp16), sha256 `{sha256}`.
"""

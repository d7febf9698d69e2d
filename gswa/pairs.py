"""The plain side of rewriting examples: passages of the author's, said plainly by a model, so that the way back can be learnt.

Answers are kept by passage and writer in data/pairs/, line by line: what was written is never written again, and a run that
was stopped goes on. An answer counts where it keeps the passage's numbers and citations and is no copy of it.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gswa.config import BUILTIN_MODEL
from gswa.errors import TrainingError
from gswa.files import append_line, read_lines
from gswa.passages import count_words, digest, kind_of, passages
from gswa.recipe import Recipe
from gswa.records import Answer, Document, Message, Prompt, Record
from gswa.writers import Speed, Writer

log = logging.getLogger("gswa")

ASKED = (
    "Say the following passage in plain, neutral words, in the same language. Keep every fact, every number and every citation "
    "exactly as it is. Use short, simple sentences. Answer with the text alone.\n\n{passage}"
)
TOKENS_PER_WORD = 2.0  # room for an answer; scientific English takes about 1.5
PROBED = 6  # answers that show whether the writer can write, and how fast
ACCEPTED_SHARE = 0.5  # of them, at least
LENGTH = (0.5, 1.6)  # an answer's words as a share of the passage's
COPIED_SHARE = 0.6  # of the passage's runs of four words, at most
TRAIN_PASSES = 3  # of a forward pass: LoRA's step is a forward pass, one backward for activations, one to recompute them
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CITATION = re.compile(r"\[\d[\d,;\s–-]*\]|\b[A-Z][\w’'-]+(?: et al\.?| (?:and|&) [A-Z][\w’'-]+)?,? \(?(?:19|20)\d\d[a-z]?\b")
CHATTY = re.compile(r"^(?:sure|certainly|of course|here(?: is|'s))[^\n]{0,120}:\s*\n+", re.IGNORECASE)


class Pair(Record):
    """A line of the cache: the passage by its digest, what was written, and why it does not count (empty: it does)."""

    passage: str
    plain: str
    fault: str


class PairsReport(Record):
    """What there is to rewrite, what of it has a plain side, and why the rest has none (empty where all was tried)."""

    writer: str
    wanted: int
    ready: int
    refused: int
    reason: str = ""

    def in_words(self) -> str:
        """What a person must know of it: what the writing page does may be untrained."""
        if self.ready == self.wanted:
            return f"{self.ready} passages have a plain version to be rewritten from"
        share = "is untrained" if not self.ready else f"is trained on {self.ready} of {self.wanted} passages that were meant for it"
        reason = self.reason or f"{self.refused} plain versions lost a number or a citation, or copied"
        return f"rewriting, which is what the writing page does, {share}: {reason}. The other passages are continued instead"


class Untrained(Exception):
    """Why no more is written: the reason that the run will give."""


class Survey(Record):
    """What a corpus has to rewrite: passages by digest, and the words of all there is to train on."""

    passages: dict[str, str]
    words: int


def survey(documents: Iterable[Document], recipe: Recipe, seed: int) -> Survey:
    found, words = {}, 0
    for document in documents:
        for passage in passages(document, recipe):
            words += count_words(passage.text)
            if kind_of(passage.text, recipe, seed) == "rewrite":
                found[digest(passage.text)] = passage.text
    return Survey(passages=found, words=words)


def cached(folder: Path, writer: str) -> dict[str, Pair]:
    """By passage; of several lines the last one counts."""
    pairs = (Pair.model_validate(line) for line in read_lines(cache_file(folder, writer)))
    return {pair.passage: pair for pair in pairs}


def cache_file(folder: Path, writer: str) -> Path:
    asked = hashlib.sha256(f"{writer}\n{ASKED}".encode()).hexdigest()[:16]
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', writer)[-60:].strip('-')}.{asked}.jsonl"


def plain_sides(folder: Path) -> dict[str, str]:
    """By passage, whoever wrote them; of several the newest file's."""
    files = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    pairs = (Pair.model_validate(line) for file in files for line in read_lines(file))
    return {pair.passage: pair.plain for pair in pairs if not pair.fault}


def make_pairs(found: Survey, folder: Path, writer: Writer, recipe: Recipe, epochs: float) -> PairsReport:
    """As the recipe says when: what cannot be written is then a reason in the report, and an error only where it asks for `always`."""
    always = recipe.pairs.make == "always"
    try:
        if recipe.pairs.make == "never":
            raise Untrained("configs/examples.yaml says so (pairs.make: never)")
        if not always and writer.name == BUILTIN_MODEL:
            raise Untrained("the built-in base model is too small to write prose")
        return write_pairs(found.passages, folder, writer, None if always else found.words * epochs)
    except (Untrained, TrainingError) as error:
        if always:
            raise
        return _report(found.passages, folder, writer, str(error))


def write_pairs(passages: Mapping[str, str], folder: Path, writer: Writer, train_words: float | None = None) -> PairsReport:
    """Bring the cache up to date. With `train_words`, the words that training will see over all epochs, only where the writer
    can write and it takes less time than the training; without, in any case."""
    done = cached(folder, writer.name)
    left = sorted((name for name in passages if name not in done), key=lambda name: count_words(passages[name]))  # the cheapest first
    prompts = [prompt_for(name, passages[name]) for name in left]
    judge = _Judge({name: passages[name] for name in left}, cache_file(folder, writer.name), train_words)
    reason = ""
    if prompts:
        try:
            writer.write(prompts, judge)
        except Untrained as end:
            reason = str(end)
    return _report(passages, folder, writer, reason)


def _report(passages: Mapping[str, str], folder: Path, writer: Writer, reason: str) -> PairsReport:
    pairs = [pair for name, pair in cached(folder, writer.name).items() if name in passages]
    ready = sum(not pair.fault for pair in pairs)
    return PairsReport(writer=writer.name, wanted=len(passages), ready=ready, refused=len(pairs) - ready, reason=reason)


def prompt_for(name: str, text: str) -> Prompt:
    room = round(TOKENS_PER_WORD * count_words(text) * LENGTH[1])
    return Prompt(id=name, messages=(Message(role="user", content=ASKED.format(passage=text)),), max_new_tokens=room)


class _Judge:
    """Checks and keeps each answer as it comes; after the first few it says whether to go on."""

    def __init__(self, passages: Mapping[str, str], file: Path, train_words: float | None) -> None:
        self.passages, self.file, self.train_words = passages, file, train_words
        self.words_left = sum(map(count_words, passages.values()))
        self.words_done = 0
        self.seen: Counter[bool] = Counter()
        self.seconds = 0.0

    def __call__(self, answers: Sequence[Answer], speed: Speed) -> None:
        for answer in answers:
            plain, passage = CHATTY.sub("", answer.text).strip(), self.passages[answer.id]
            why = fault(plain, passage)
            self.seen[not why] += 1
            self.words_done += count_words(passage)
            self.words_left -= count_words(passage)
            append_line(self.file, Pair(passage=answer.id, plain=plain, fault=why))
        self.seconds += speed.seconds
        done, total = self.seen.total(), len(self.passages)
        log.info("%d of %d passages said plainly, %d kept", done, total, self.seen[True], extra={"step": done, "total": total})
        if self.train_words is not None and self.words_left:
            self._decide(speed)

    def _decide(self, speed: Speed) -> None:
        refused, probed = self.seen[False], min(PROBED, len(self.passages))
        if refused > (1 - ACCEPTED_SHARE) * max(probed, self.seen.total()):
            raise Untrained(f"the model cannot write plain versions: {refused} of {self.seen.total()} lost numbers or facts, or copied")
        left, training = self.seconds / self.words_done * self.words_left, self._training_seconds(speed)
        if training is not None and left > training:
            raise Untrained(f"writing plain versions would take {_span(left)}, and the training about {_span(training)}")

    def _training_seconds(self, speed: Speed) -> float | None:
        """For the tokens that training sees, at the measured speed of a forward pass; None where that is not known."""
        if speed.forward_tokens_per_sec is None or self.train_words is None:
            return None
        return TRAIN_PASSES * self.train_words * TOKENS_PER_WORD / speed.forward_tokens_per_sec


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


# -- checks ----------------------------------------------------------------------------------------------------------------
def fault(plain: str, passage: str) -> str:
    """Why a plain version does not count; empty where it does."""
    share = count_words(plain) / max(count_words(passage), 1)
    if not LENGTH[0] <= share <= LENGTH[1]:
        return f"its length is {share:.0%} of the passage's"
    for name, marks in (("citation", citations), ("number", numbers)):
        lost, invented = marks(passage) - marks(plain), marks(plain) - marks(passage)
        if lost:
            return f"{name} lost: {min(lost)}"
        if invented:
            return f"{name} invented: {min(invented)}"
    if _copied(plain, passage) > COPIED_SHARE:
        return "it copies the passage"
    return ""


def citations(text: str) -> set[str]:
    """[12], Smith et al. (2010 …, compared without brackets and spaces."""
    return {re.sub(r"[^\w]", "", mark).lower() for mark in CITATION.findall(text)}


def numbers(text: str) -> set[str]:
    """Outside citations, with thousands and decimals written one way."""
    return {re.sub(r",(?=\d{3}\b)", "", number).replace(",", ".") for number in NUMBER.findall(CITATION.sub(" ", text))}


def _copied(plain: str, passage: str) -> float:
    runs, written = _runs(passage), _runs(plain)
    return len(runs & written) / max(len(runs), 1)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + 4]) for at in range(len(words) - 3)}

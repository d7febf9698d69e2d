"""`preprocess` by itself: a folder or a file of examples, split into chunks in the form they came in, and a report."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gswa import hardware
from gswa.basemodel import resolve_model
from gswa.chunking import analyze, data_digests, refuse_changed, sealed, stats_of, tokenizer_digests, write
from gswa.config import RunRequest, Settings
from gswa.dataset import load_tokenizer
from gswa.errors import ConfigError, DataError
from gswa.files import write_atomically
from gswa.formats import Faults, as_line, file_form, read_examples
from gswa.lengths import STRATEGIES, PreprocessStats, statistics_report
from gswa.parts import Rules, split_examples
from gswa.records import SPLITS, Chunk, Example, Split
from gswa.settle import settle
from gswa.workspace import Workspace

log = logging.getLogger("gswa")

REPORT_FILE = "preprocess_report.md"


def preprocess_command(
    input: Path | None,
    output: Path | None,
    max_tokens: int | None,
    overlap: int,
    strategy: str,
    analyze_only: bool,
    report_dir: Path | None,
    model: str | None,
) -> str:
    """The report in Markdown, and where the chunks lie; model and limit are those that training would use. Raises our errors."""
    chosen = next((known for known in STRATEGIES if known == strategy), None)
    if chosen is None:
        raise ConfigError(f"--strategy {strategy}: no such strategy; choose {', '.join(STRATEGIES)}")
    workspace = Workspace()
    config = settle(RunRequest(settings=Settings(model_id=model, max_seq_length=max_tokens)), hardware.probe()).config
    rules = Rules(load_tokenizer(resolve_model(config.model_id)), config.max_seq_length, chosen, overlap)
    folder = output or workspace.preprocessed(config.max_seq_length)
    report = statistics_report(preprocess_folder(input or workspace.training, folder, rules, analyze_only))
    if report_dir:
        write_atomically(report_dir / REPORT_FILE, report)
    return f"Model: {config.model_id}\n\n{report}" + ("" if analyze_only else f"\nChunks: {folder}")


@dataclass
class _Source:
    """Examples in train.jsonl, valid.jsonl, test.jsonl of a folder, or all of them for training in one file."""

    path: Path
    faults: Faults = field(default_factory=Faults)

    def file(self, split: Split) -> Path | None:
        """Without train.jsonl an error, when it is read; the others may be absent."""
        if self.path.is_file():
            return self.path if split == "train" else None
        path = self.path / f"{split}.jsonl"
        return path if split == "train" or path.is_file() else None

    def read(self, split: Split) -> Iterable[Example]:
        path = self.file(split)
        # called as training calls them, which takes the chunks over
        return () if path is None else read_examples(path, self.faults.of(path), split)

    def as_stored(self) -> Callable[[Split, Chunk], dict[str, Any]]:
        """A chunk in the form of the file that its example came from."""
        forms = {split: file_form(path) for split in SPLITS if (path := self.file(split)) and path.is_file()}
        return lambda split, chunk: as_line(chunk, forms[split])


def _check_there(source: Path) -> None:
    """Raises DataError where there is nothing to split."""
    if source.is_file() or (source / "train.jsonl").is_file():
        return
    held = sorted(path.name for path in source.glob("*.jsonl"))
    instead = (
        f"there is {', '.join(held[:5])}: name the file itself" if held else "'python -m gswa.train prepare' writes it from the papers"
    )
    missing = source / "train.jsonl" if source.is_dir() or not source.suffix else source
    raise DataError(f"{missing}: no such file; --input takes a JSONL file, or a folder with train.jsonl; {instead}")


def preprocess_folder(source: Path, output: Path, rules: Rules, analyze_only: bool = False) -> PreprocessStats:
    """Split the examples of a folder, or of one JSONL file, into a folder of chunks; `analyze_only` counts and writes nothing.

    Chunks of the same data, tokenizer and settings are kept. Raises DataError rather than write over files not made here.
    """
    examples = _Source(source)
    _check_there(source)
    split_examples(examples.read("train"), rules)  # a missing file or an overlap that is refused leaves nothing behind
    if analyze_only:
        stats = stats_of(analyze(examples.read, rules), rules)
        return stats.model_copy(update={"passed_over": examples.faults.found})
    if any(path.resolve().parent == output.resolve() for split in SPLITS if (path := examples.file(split))):
        raise DataError(f"{output}: holds the input, which would be overwritten; choose another --output")
    refuse_changed(output)
    made_from = {**tokenizer_digests(rules.tokenizer), **data_digests(source)}
    known = sealed(output)
    wanted = (rules.max_tokens, rules.strategy, rules.overlap, made_from)
    if known and (known.max_seq_length, known.strategy, known.overlap, known.made_from) == wanted:
        return known
    return write(output, examples.read, rules, made_from, examples.as_stored(), lambda: examples.faults.found)

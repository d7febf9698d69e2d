"""Examples on disk → folders of chunks that fit one length, written once and sealed by the statistics beside them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from gswa.basemodel import resolve_model
from gswa.config import BUILTIN_MODEL, RunConfig
from gswa.conservation import SET_ASIDE_FILE, SetAside, check
from gswa.dataset import load_tokenizer
from gswa.errors import ConfigError, DataError
from gswa.files import append_line, write_atomically, write_lines
from gswa.formats import read_examples
from gswa.lengths import STRATEGIES, Divided, PreprocessStats, Tally, statistics_report, together
from gswa.parts import Rules, split_examples
from gswa.records import SPLITS, Chunk, Example, LengthStats, Split
from gswa.rundir import RunDir
from gswa.workspace import Workspace

log = logging.getLogger("gswa")

STATS_FILE = "stats.json"
REPORT_FILE = "preprocess_report.md"
ReadSplit = Callable[[Split], Iterable[Example]]


def chunks(run: RunDir, config: RunConfig) -> LengthStats:
    """Statistics of the run's examples split at this length; the chunks are written the first time they are asked for.

    Raises DataError where nothing is left to train on, and where splitting is switched off and an example is too long.
    """
    folder = run.chunks(config.max_seq_length)
    stats = sealed(folder)
    if stats is None or stats.strategy != config.strategy or stats.made_from["model"] != config.model_id:
        rules = Rules(load_tokenizer(resolve_model(config.model_id)), config.max_seq_length, config.strategy)
        if not config.preprocess_enabled:
            _refuse_long(run, rules)
        stats = _write(folder, run.read_examples, rules, {"model": config.model_id, **_digests(run.examples, rules)})
    write_atomically(run.stats_file, _json(stats))
    return stats.splits["all"]


def sealed(folder: Path) -> PreprocessStats | None:
    """What stands in a finished folder of chunks; None where it was never finished, or a file changed its size since."""
    try:
        stats = PreprocessStats.model_validate_json((folder / STATS_FILE).read_text(encoding="utf-8"))
        return stats if stats.files == _sizes(folder) else None
    except (OSError, ValueError):
        return None


def _refuse_long(run: RunDir, rules: Rules) -> None:
    total = together(_analyze(run.read_examples, rules).values()).stats(rules.max_tokens)
    if total.over_limit_before:
        raise DataError(
            f"{total.over_limit_before} of {total.before.count} examples are longer than {rules.max_tokens} tokens and preprocess_enabled"
            f" is false; switch it on, or set max_seq_length to {total.before.max:.0f} or more"
        )


# -- preprocess by itself --------------------------------------------------------------------------------------------------
def preprocess_command(
    input: Path | None,
    output: Path | None,
    max_tokens: int,
    overlap: int,
    strategy: str,
    analyze_only: bool,
    report_dir: Path | None,
    model: str | None,
) -> str:
    """Split a folder, or one JSONL file, of examples; the report in Markdown, and where the chunks lie. Raises our errors."""
    chosen = next((known for known in STRATEGIES if known == strategy), None)
    if chosen is None:
        raise ConfigError(f"--strategy {strategy}: no such strategy; choose {', '.join(STRATEGIES)}")
    workspace = Workspace()
    rules = Rules(load_tokenizer(resolve_model(model or BUILTIN_MODEL)), max_tokens, chosen, overlap)
    folder = output or workspace.preprocessed(max_tokens)
    stats = preprocess_folder(input or workspace.training, folder, rules, analyze_only)
    report = statistics_report(stats)
    if report_dir:
        write_atomically(report_dir / REPORT_FILE, report)
    return report if analyze_only else f"{report}\nChunks: {folder}"


def preprocess_folder(source: Path, output: Path, rules: Rules, analyze_only: bool = False) -> PreprocessStats:
    """Split train.jsonl, valid.jsonl, test.jsonl of a folder into chunks; `analyze_only` counts and writes nothing.

    Chunks of the same data, tokenizer and settings are kept. Raises DataError rather than write over files not made here.
    """
    read = partial(_read_split, source)
    if analyze_only:
        return _stats(_analyze(read, rules), rules)
    if not (output / STATS_FILE).exists() and any((output / f"{split}.jsonl").exists() for split in SPLITS):
        raise DataError(f"{output}: holds files that were not made by preprocessing; choose another --output or move them")
    made_from = _digests(source, rules)
    stats = sealed(output)
    wanted = (rules.max_tokens, rules.strategy, rules.overlap, made_from)
    if stats and (stats.max_seq_length, stats.strategy, stats.overlap, stats.made_from) == wanted:
        return stats
    return _write(output, read, rules, made_from)


def _read_split(source: Path, split: Split) -> Iterable[Example]:
    """Without train.jsonl an error; valid.jsonl and test.jsonl may be absent. One file alone is the train split."""
    if source.is_file():
        return read_examples(source) if split == "train" else ()
    path = source / f"{split}.jsonl"
    return read_examples(path) if split == "train" or path.exists() else ()


# -- writing ---------------------------------------------------------------------------------------------------------------
def _write(folder: Path, read: ReadSplit, rules: Rules, made_from: dict[str, str]) -> PreprocessStats:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STATS_FILE, "{}\n")  # says that the folder is ours, and not finished
    (folder / SET_ASIDE_FILE).unlink(missing_ok=True)
    tallies = {split: Tally() for split in SPLITS}
    for split, tally in tallies.items():
        divided = _tallied(split_examples(read(split), rules), tally, split, folder / SET_ASIDE_FILE)
        write_lines(folder / f"{split}.jsonl", divided)
        log.info("%s: %d examples, %d chunks of at most %d tokens", split, len(tally.before), len(tally.after), rules.max_tokens)
    if not tallies["train"].after:
        raise DataError(_nothing_left(tallies["train"], rules))
    found = check(read, folder)
    stats = _stats(tallies, rules).model_copy(update={"made_from": made_from, "files": _sizes(folder), "conservation": found})
    write_atomically(folder / STATS_FILE, _json(stats))
    return stats


def _tallied(divided: Iterable[Divided], tally: Tally, split: Split, set_aside: Path) -> Iterator[Chunk]:
    for line, one in enumerate(divided):
        tally.add(one)
        if one.reason:
            record = SetAside(split=split, line=line, id=one.example.id, characters=len(one.example.target), reason=one.reason)
            append_line(set_aside, record)
        yield from one.chunks


def _analyze(read: ReadSplit, rules: Rules) -> dict[Split, Tally]:
    tallies = {split: Tally() for split in SPLITS}
    for split, tally in tallies.items():
        for divided in split_examples(read(split), rules):
            tally.add(divided)
    return tallies


def _stats(tallies: dict[Split, Tally], rules: Rules) -> PreprocessStats:
    splits = {name: tally.stats(rules.max_tokens) for name, tally in [*tallies.items(), ("all", together(tallies.values()))]}
    return PreprocessStats(max_seq_length=rules.max_tokens, strategy=rules.strategy, overlap=rules.overlap, splits=splits)


def _nothing_left(train: Tally, rules: Rules) -> str:
    if not train.before:
        return "train.jsonl: holds no example, so there is nothing to train on; add papers to the corpus, or choose another --data"
    reasons = "; ".join(f"{count} because {reason}" for reason, count in train.reasons.items())
    return f"train.jsonl: none of its {len(train.before)} examples fits {rules.max_tokens} tokens ({reasons}); raise max_seq_length"


def _json(stats: PreprocessStats) -> str:
    return stats.model_dump_json(indent=2) + "\n"


def _sizes(folder: Path) -> dict[str, int]:
    return {f"{split}.jsonl": (folder / f"{split}.jsonl").stat().st_size for split in SPLITS}


def _digests(source: Path, rules: Rules) -> dict[str, str]:
    """What the chunks depend on: the texts, the vocabulary and the chat template."""
    vocabulary = json.dumps(sorted(rules.tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    found = {"vocabulary": _digest(vocabulary), "template": _digest(str(rules.tokenizer.chat_template))}
    for path in [source] if source.is_file() else [source / f"{split}.jsonl" for split in SPLITS]:
        if path.is_file():
            with path.open("rb") as content:
                found[path.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

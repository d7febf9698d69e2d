"""Examples on disk → folders of chunks that fit one length, written once and sealed by the statistics beside them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gswa.basemodel import resolve_model
from gswa.config import RunConfig
from gswa.conservation import SET_ASIDE_FILE, SetAside, check
from gswa.dataset import Tokenizer, load_tokenizer
from gswa.errors import DataError
from gswa.files import append_line, file_digest, write_atomically, write_lines
from gswa.formats import read_chunks
from gswa.lengths import Divided, PreprocessStats, Tally, together
from gswa.parts import LONG_PROMPT, NO_ROOM, Rules, split_examples
from gswa.records import SPLITS, Chunk, Example, LengthStats, Split
from gswa.rundir import RunDir
from gswa.workspace import Workspace

log = logging.getLogger("gswa")

STATS_FILE = "stats.json"
UNFINISHED = "{}\n"  # in its place: the folder is ours, and not finished
WRITTEN = (STATS_FILE, SET_ASIDE_FILE, *(f"{split}.jsonl" for split in SPLITS))
ReadSplit = Callable[[Split], Iterable[Example]]
AsStored = Callable[[Split, Chunk], BaseModel | dict[str, Any]]


def chunks(run: RunDir, config: RunConfig) -> LengthStats:
    """Statistics of the run's examples split at this length; the chunks are written the first time they are asked for.

    What `preprocess` made of the same data for this length and tokenizer is taken over. Raises DataError where nothing is
    left to train on, and where splitting is switched off and an example is too long.
    """
    folder = run.chunks(config.max_seq_length)
    stats = sealed(folder)
    if stats is None or not _serves(stats, config) or stats.made_from["model"] != config.model_id:
        metadata = run.metadata()
        rules = Rules(load_tokenizer(resolve_model(config.model_id)), config.max_seq_length, config.strategy)
        if not config.preprocess_enabled:
            _refuse_long(run, rules)
        made_from = {"model": config.model_id, **tokenizer_digests(rules.tokenizer), **metadata.get("data_files", {})}
        if ready := _preprocessed(config, made_from):
            stats = take_over(ready, folder, run.read_examples, made_from)
        else:
            passed_over = metadata.get("passed_over", {})
            stats = write(folder, run.read_examples, rules, made_from, passed_over=lambda: passed_over)
    write_atomically(run.stats_file, _json(stats))
    return stats.splits["all"]


def sealed(folder: Path) -> PreprocessStats | None:
    """What stands in a finished folder of chunks; None where it was never finished, or a file changed its size since."""
    try:
        stats = _seal_of(folder)
        return stats if stats.files == _sizes(folder) else None
    except (OSError, ValueError):
        return None


def refuse_changed(folder: Path) -> None:
    """Raises DataError where the folder holds files that are not, or no longer, what was written here: they are the user's."""
    found = [path for name in WRITTEN if (path := folder / name).exists()]
    if not found or _is_unfinished(folder):
        return
    try:
        known = _seal_of(folder).digests
    except (OSError, ValueError):
        raise DataError(f"{found[0]}: not made by preprocessing, so it is not overwritten; choose another --output, or move it") from None
    for name, digest in _digests(folder).items():
        if known.get(name) != digest:
            way_out = f"train on it with --data {folder}, choose another --output, or move it"
            raise DataError(f"{folder / name}: changed since it was preprocessed, so it is not overwritten; {way_out}")


def _is_unfinished(folder: Path) -> bool:
    stats = folder / STATS_FILE
    return stats.is_file() and stats.read_bytes() == UNFINISHED.encode()


def _seal_of(folder: Path) -> PreprocessStats:
    return PreprocessStats.model_validate_json((folder / STATS_FILE).read_text(encoding="utf-8"))


def _serves(stats: PreprocessStats, config: RunConfig) -> bool:
    """`auto` takes what was chosen when the data was preprocessed."""
    return stats.max_seq_length == config.max_seq_length and config.strategy in ("auto", stats.strategy)


def _preprocessed(config: RunConfig, made_from: dict[str, str]) -> Path | None:
    """The folder of `preprocess` for this length, where it was made from the same data, vocabulary and chat template."""
    folder = Workspace().preprocessed(config.max_seq_length)
    stats = sealed(folder)
    wanted = {name: digest for name, digest in made_from.items() if name != "model"}
    if stats is None or not _serves(stats, config) or stats.made_from != wanted or "train.jsonl" not in wanted:
        return None
    if stats.digests != _digests(folder):
        log.warning("%s: changed since it was preprocessed, so the examples are split anew", folder)
        return None
    log.info("chunks of %d tokens: taken over from %s, split there with strategy %s", config.max_seq_length, folder, stats.strategy)
    return folder


def _refuse_long(run: RunDir, rules: Rules) -> None:
    total = together(analyze(run.read_examples, rules).values()).stats(rules.max_tokens)
    if total.over_limit_before:
        raise DataError(
            f"{total.over_limit_before} of {total.before.count} examples are longer than {rules.max_tokens} tokens and preprocess_enabled"
            f" is false; switch it on, or set max_seq_length to {total.before.max:.0f} or more"
        )


# -- counting and writing --------------------------------------------------------------------------------------------------
def analyze(read: ReadSplit, rules: Rules) -> dict[Split, Tally]:
    """What splitting would do, without writing."""
    tallies = {split: Tally() for split in SPLITS}
    for split, tally in tallies.items():
        for divided in split_examples(read(split), rules):
            tally.add(divided)
    return tallies


def write(
    folder: Path,
    read: ReadSplit,
    rules: Rules,
    made_from: dict[str, str],
    as_stored: AsStored = lambda _, chunk: chunk,
    passed_over: Callable[[], dict[str, Any]] = dict,
) -> PreprocessStats:
    """Split, store, check what was stored, and seal. Raises DataError where nothing is left to train on.

    `passed_over`: what reading found wrong, once all is read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STATS_FILE, UNFINISHED)
    (folder / SET_ASIDE_FILE).unlink(missing_ok=True)
    tallies = {split: Tally() for split in SPLITS}
    for split, tally in tallies.items():
        divided = _tallied(split_examples(read(split), rules), tally, split, folder / SET_ASIDE_FILE)
        write_lines(folder / f"{split}.jsonl", (as_stored(split, chunk) for chunk in divided))
        log.info("%s: %d examples, %d chunks of at most %d tokens", split, len(tally.before), len(tally.after), rules.max_tokens)
    if not tallies["train"].after:
        raise DataError(_nothing_left(tallies["train"], rules))
    return _seal(folder, read, stats_of(tallies, rules).model_copy(update={"passed_over": passed_over()}), made_from)


def take_over(source: Path, folder: Path, read: ReadSplit, made_from: dict[str, str]) -> PreprocessStats:
    """The chunks of a sealed folder in another one, checked against the examples there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / STATS_FILE, UNFINISHED)
    for split in SPLITS:
        write_lines(folder / f"{split}.jsonl", read_chunks(source / f"{split}.jsonl"))
    aside = source / SET_ASIDE_FILE
    write_atomically(folder / SET_ASIDE_FILE, aside.read_bytes() if aside.is_file() else b"")
    stats = sealed(source)
    assert stats is not None
    return _seal(folder, read, stats, made_from)


def _seal(folder: Path, read: ReadSplit, stats: PreprocessStats, made_from: dict[str, str]) -> PreprocessStats:
    found = check(read, folder)
    update = {"made_from": made_from, "files": _sizes(folder), "digests": _digests(folder), "conservation": found}
    stats = stats.model_copy(update=update)
    write_atomically(folder / STATS_FILE, _json(stats))
    return stats


def _tallied(divided: Iterable[Divided], tally: Tally, split: Split, set_aside: Path) -> Iterator[Chunk]:
    for line, one in enumerate(divided):
        tally.add(one)
        if one.reason:
            record = SetAside(split=split, line=line, id=one.example.id, characters=len(one.example.target), reason=one.reason)
            append_line(set_aside, record)
        yield from one.chunks


def stats_of(tallies: dict[Split, Tally], rules: Rules) -> PreprocessStats:
    splits = {name: tally.stats(rules.max_tokens) for name, tally in [*tallies.items(), ("all", together(tallies.values()))]}
    return PreprocessStats(max_seq_length=rules.max_tokens, strategy=rules.strategy, overlap=rules.overlap, splits=splits)


def _nothing_left(train: Tally, rules: Rules) -> str:
    if not train.before:
        return "train.jsonl: holds no example, so there is nothing to train on; add papers to the corpus, or choose another --data"
    reasons = "; ".join(f"{count} because {reason}" for reason, count in train.reasons.items())
    way_out = "raise max_seq_length" if {LONG_PROMPT, NO_ROOM} & train.reasons.keys() else "choose another --model, or other data"
    return f"train.jsonl: none of its {len(train.before)} examples fits {rules.max_tokens} tokens ({reasons}); {way_out}"


def _json(stats: PreprocessStats) -> str:
    return stats.model_dump_json(indent=2) + "\n"


def _digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in WRITTEN if name != STATS_FILE and (folder / name).is_file()}


def _sizes(folder: Path) -> dict[str, int]:
    return {f"{split}.jsonl": (folder / f"{split}.jsonl").stat().st_size for split in SPLITS}


# -- what chunks depend on -------------------------------------------------------------------------------------------------
def tokenizer_digests(tokenizer: Tokenizer) -> dict[str, str]:
    """Of the vocabulary and of the chat template."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    texts = {"vocabulary": vocabulary, "template": str(tokenizer.chat_template)}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def data_digests(source: Path) -> dict[str, str]:
    """Of the split files in a folder, by name; one file by itself counts as the train split."""
    if source.is_file():
        return {"train.jsonl": file_digest(source)}
    return {path.name: file_digest(path) for split in SPLITS if (path := source / f"{split}.jsonl").is_file()}

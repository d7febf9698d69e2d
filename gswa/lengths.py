"""Lengths before and after splitting: counted while the examples stream by, then quantiles, histogram and a report."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from pydantic import ConfigDict, Field

from gswa.config import Strategy
from gswa.records import Chunk, Example, LengthStats, Quantiles, Record

Lengths: TypeAlias = "array[int]"  # subscripted at run time only from Python 3.12 on
STATS_SCHEMA = 1
STRATEGIES: tuple[Strategy, ...] = ("auto", "paragraph", "sentence", "token")
HISTOGRAM_BINS = 16  # up to the limit; longer examples go on in bins of the same width


class PreprocessStats(Record):
    """What splitting at one length did: `stats/preprocess_stats.json`, and `stats.json` beside the chunks, which seals them.

    `splits` has an entry per split and one for `all`; `made_from` the digests of what went in, `files` the bytes of what
    came out, `digests` its SHA-256; `passed_over` by file how many lines were no example, and the first of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)
    schema_version: int = Field(STATS_SCHEMA, alias="schema")
    max_seq_length: int = Field(description="tokens, as rendered by the chat template")
    strategy: Strategy
    overlap: int = 0
    made_from: dict[str, str] = Field({})
    files: dict[str, int] = Field({})
    digests: dict[str, str] = Field({})
    splits: dict[str, LengthStats]
    conservation: dict[str, Any] = Field({})
    passed_over: dict[str, Any] = Field({})


class Divided(Record):
    """An example and its chunks; without any, `reason` says why it was set aside. `tokens` is its length before."""

    example: Example
    tokens: int
    chunks: tuple[Chunk, ...] = ()
    reason: str = ""


@dataclass
class Tally:
    """Running counts of one split: eight bytes per example and per chunk, no text."""

    before: Lengths = field(default_factory=lambda: array("q"))
    after: Lengths = field(default_factory=lambda: array("q"))
    reasons: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    characters_in_chunks: int = 0
    characters_set_aside: int = 0

    def add(self, divided: Divided) -> None:
        length = len(divided.example.target)
        self.before.append(divided.tokens)
        self.after.extend(chunk.tokens for chunk in divided.chunks)
        self.characters += length
        self.characters_in_chunks += sum(end - start for start, end in (chunk.span for chunk in divided.chunks))
        if divided.reason:
            self.reasons[divided.reason] += 1
            self.characters_set_aside += length

    def stats(self, max_tokens: int) -> LengthStats:
        set_aside = self.reasons.total()
        over_before, over_after = (sum(length > max_tokens for length in lengths) for lengths in (self.before, self.after))
        return LengthStats(
            before=quantiles(self.before),
            after=quantiles(self.after),
            over_limit_before=over_before,
            over_limit_after=over_after,
            truncated_percent_before=_percent(over_before, len(self.before)),
            truncated_percent_after=_percent(over_after, len(self.after)),
            chunks_per_example=len(self.after) / max(1, len(self.before) - set_aside),
            set_aside=set_aside,
            set_aside_reasons=dict(self.reasons),
            characters_in=self.characters,
            characters_in_chunks=self.characters_in_chunks,
            characters_set_aside=self.characters_set_aside,
            histogram_before=histogram(self.before, max_tokens),
            histogram_after=histogram(self.after, max_tokens),
        )


def together(tallies: Iterable[Tally]) -> Tally:
    """The tally of all splits."""
    total = Tally()
    for tally in tallies:
        total.before.extend(tally.before)
        total.after.extend(tally.after)
        total.reasons.update(tally.reasons)
        total.characters += tally.characters
        total.characters_in_chunks += tally.characters_in_chunks
        total.characters_set_aside += tally.characters_set_aside
    return total


def quantiles(lengths: Lengths) -> Quantiles:
    """All zero where there is nothing to count."""
    points = np.quantile(np.array(lengths or [0]), [0, 0.5, 0.9, 0.95, 0.99, 1], method="linear").tolist()
    names = ("min", "median", "p90", "p95", "p99", "max")
    return Quantiles(count=len(lengths), total=sum(lengths), **dict(zip(names, points, strict=True)))


def bin_width(max_tokens: int) -> int:
    return max(1, max_tokens // HISTOGRAM_BINS)


def histogram(lengths: Lengths, max_tokens: int) -> tuple[tuple[int, int], ...]:
    """(lower edge, count) of the bins that are not empty; a bin holds its upper edge, so a full chunk stands below the limit."""
    width = bin_width(max_tokens)
    return tuple(sorted(Counter((length - 1) // width * width for length in lengths).items()))


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


# -- the report ----------------------------------------------------------------------------------------------------------
def statistics_report(stats: PreprocessStats) -> str:
    """Markdown: token distribution, truncation and chunks per entry, before and after splitting."""
    filled = {name: split for name, split in stats.splits.items() if split.before.count}
    sections = [_section(name, split) for name, split in filled.items() if name != "all" or len(filled) != 2]
    title = f"# Lengths at {stats.max_seq_length:,} tokens (strategy {stats.strategy})"
    return "\n\n".join([title, *sections, *_passed_over(stats.passed_over), *_conserved(stats.conservation)]) + "\n"


def _section(name: str, stats: LengthStats) -> str:
    rows = [_row(which, numbers) for which, numbers in (("before", stats.before), ("after", stats.after))]
    lines = [
        f"## {name}",
        "",
        "| tokens | count | min | median | p90 | p95 | p99 | max | total |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
        f"- Would be truncated before splitting: {stats.over_limit_before:,} of {stats.before.count:,}"
        f" ({stats.truncated_percent_before:.1f} %); after: {stats.over_limit_after:,} ({stats.truncated_percent_after:.1f} %)",
        f"- Chunks per original entry: {stats.chunks_per_example:.2f}",
        *(f"- Set aside: {count:,} ({reason})" for reason, count in stats.set_aside_reasons.items()),
    ]
    return "\n".join(lines)


def _row(name: str, numbers: Quantiles) -> str:
    points = (numbers.min, numbers.median, numbers.p90, numbers.p95, numbers.p99, numbers.max)
    return f"| {name} | {numbers.count:,} | " + " | ".join(f"{point:,.0f}" for point in points) + f" | {numbers.total:,} |"


def _passed_over(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    named = [line for file, bad in found.items() for line in (f"- {file}: {bad['lines']:,}", *_first_lines(bad))]
    return ["## Lines passed over", "\n".join(named)]


def _first_lines(bad: Mapping[str, Any]) -> list[str]:
    more = bad["lines"] - len(bad["first"])
    return [f"    - {line}" for line in bad["first"]] + ([f"    - and {more:,} more"] if more else [])


def _conserved(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    return [
        "## Nothing lost",
        f"{found['characters_in']:,} characters in = {found['characters_in_chunks']:,} in chunks"
        f" + {found['characters_between']:,} of white space between them + {found['characters_set_aside']:,} set aside.",
    ]

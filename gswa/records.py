"""What crosses two steps, in the order of the path: Document → Example → Chunk → TrainJob → StepMetrics → RunSummary."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gswa.config import RunConfig

BlockKind = Literal["title", "heading", "paragraph", "caption", "reference", "note", "acknowledgement", "affiliation", "other"]
Status = Literal[
    "ok", "repaired", "needs_ocr", "encrypted", "corrupt", "unsupported", "unsafe_xml", "zip_bomb", "too_big",
    "timeout", "crashed", "out_of_memory", "empty", "duplicate",
]  # fmt: skip
READABLE = ("ok", "repaired")
OF_THE_MOMENT = ("timeout", "crashed", "out_of_memory")  # another time, or on a machine with less to do, the file may be read
Split = Literal["train", "valid", "test"]
HeldOut = Literal["valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
HELD_OUT: tuple[HeldOut, ...] = ("valid", "test")


class Record(BaseModel):
    """Frozen, and strict about names: a field nobody knows is a fault in the file that was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Block(Record):
    """One paragraph, heading, caption … of a document; `section` is the heading it stands under, `page` counts from 1."""

    kind: BlockKind
    text: str
    section: str = ""
    page: int | None = None


class Document(Record):
    """One file of the corpus, read or set aside with its reason. `source` is relative to the corpus folder.

    `language` is an ISO 639-1 code, empty where there is too little text to tell. `group` names the documents that say nearly
    the same, and is known only where the document is read back from a parsed corpus.
    """

    schema_version: int = 1
    source: str
    sha256: str
    status: Status
    reason: str = ""
    title: str = ""
    language: str = ""
    group: str = ""
    pages: int | None = None
    blocks: tuple[Block, ...] = ()


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Example(BaseModel):
    """One chat example. `blocks` are the indices of the document's blocks that the target was made of, `weight` how often
    an epoch shows it. Where the target is part of a long block, `cut` gives its characters there: the start in the first
    block, the end in the last one. Fields that a user's own file adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")
    id: str
    document: str = ""
    group: str = ""
    kind: str = "chat"
    blocks: tuple[int, ...] = ()
    cut: tuple[int, int] | None = None
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    messages: tuple[Message, ...]

    @property
    def target(self) -> str:
        """The assistant's last message: the text that is learnt."""
        return self.messages[-1].content


class Chunk(Example):
    """Part `part` of `parts` (from 1) of an example: the characters `span` of its target. `tokens` counts the whole
    rendered chunk, `target_tokens` those that carry loss."""

    part: int = 1
    parts: int = 1
    span: tuple[int, int]
    tokens: int
    target_tokens: int


class Quantiles(Record):
    """Lengths in tokens, rendered by the chat template; quantiles are interpolated linearly."""

    count: int
    min: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float
    total: int


class LengthStats(Record):
    """What splitting did to one split, or to all: `stats/preprocess_stats.json` holds one for each."""

    before: Quantiles
    after: Quantiles
    over_limit_before: int
    over_limit_after: int
    truncated_percent_before: float = Field(description="examples that a plain trainer would have cut, in percent")
    truncated_percent_after: float
    chunks_per_example: float
    set_aside: int
    set_aside_reasons: dict[str, int]
    characters_in: int
    characters_in_chunks: int
    characters_set_aside: int
    histogram_before: tuple[tuple[int, int], ...] = Field(description="(lower edge in tokens, examples)")
    histogram_after: tuple[tuple[int, int], ...]


class TrainJob(Record):
    """All that a child needs to train, to dry-run, to evaluate, to generate, to measure number formats or to count live tensors;
    crosses to it as JSON.

    `data` holds train.jsonl, valid.jsonl, test.jsonl of chunks, or prompts.jsonl to answer. `max_steps` ends a dry run early
    (None: to the end). `rows` are the lengths to count for: see `gswa.memory.Rows`.
    """

    action: Literal["train", "dry_run", "evaluate", "generate", "measure", "count"] = "train"
    run: Path
    model: str = Field(description="folder of the base model, or its hub id")
    data: Path
    config: RunConfig
    attempt: int = 1
    max_steps: int | None = None
    samples: int = 3
    rows: tuple[int, int, float] | None = None


class Prompt(Record):
    """A chat that waits for an answer of at most `max_new_tokens`."""

    id: str
    messages: tuple[Message, ...]
    max_new_tokens: int


class Answer(Record):
    """What a model wrote for a prompt; `tokens` counts it."""

    id: str
    text: str
    tokens: int


class StepMetrics(Record):
    """One optimizer step, counted from 1. Tokens are non-padding tokens; peak memory is since the previous line."""

    step: int
    timestamp: str
    train_loss: float
    learning_rate: float
    tokens_per_sec: float
    peak_memory_gb: float
    trained_tokens: int
    grad_norm: float
    epoch: float
    attempt: int
    padding_fraction: float
    peak_reserved_gb: float | None = None


class EvalMetrics(Record):
    """Token-weighted loss in nats on one split after `step` steps (0: the base model)."""

    step: int
    timestamp: str
    split: HeldOut = "valid"
    eval_loss: float
    perplexity: float
    eval_tokens: int
    peak_memory_gb: float
    attempt: int = 1


class Sample(Record):
    """What base and tuned model write for one held-out prompt, beside the author's own text."""

    prompt: str
    author: str
    base: str
    tuned: str


class Evaluation(Record):
    """`samples/evaluation.json`: losses in nats per target token on `test`, computed anew from `adapters/`."""

    test_loss_before: float | None
    test_loss_after: float | None
    test_tokens: int
    samples: tuple[Sample, ...] = ()


class Trial(Record):
    """One candidate of the planner. `changes` is what it sets; figures are None where it was not run, and predictions where there
    is none. `predicted_speed` is in tokens per second up to a factor, `measured_at` the time of a dry run of an earlier plan."""

    changes: dict[str, int | float | str | bool | None]
    tokens_per_sec: float | None = None
    peak_memory_gb: float | None = None
    predicted_memory_gb: float | None = None
    predicted_speed: float | None = None
    measured_at: str = ""
    throughput_score: float = 0.0
    stability_score: float = 0.0
    effective_batch_factor: float = 0.0
    score: float = 0.0
    rejected: str = ""


class Plan(Record):
    """Candidates, best first; `chosen` is the settings layer of the best one that was not rejected (None: all were).

    `counted_memory_gb` is a second opinion on its peak: of the step itself, gone through on tensors without data.
    """

    schema_version: int = 1
    margin: float
    memory_gb: float
    seed: int
    dry_run_steps: int
    trials: tuple[Trial, ...]
    chosen: dict[str, int | float | str | bool | None] | None
    counted_memory_gb: float | None = None


class RunSummary(Record):
    """What a finished run is, as the flow returns it and `list --json` prints it."""

    id: str
    path: str
    name: str
    status: str
    model: str
    started: str
    attempts: int
    steps: int
    train_loss: float | None
    valid_loss_before: float | None
    valid_loss_after: float | None
    test_loss_before: float | None
    test_loss_after: float | None
    peak_memory_gb: float | None
    report: str | None

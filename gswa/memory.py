"""How much memory training will take, from a base model's config.json alone. No library is asked; sizes are bytes unless named.

Counted is what is alive at once, tensor by tensor, in the training step of gswa/backends/torch: `kept_per_token` is what
autograd keeps of one block, and each line of `_moments` is a place in the step where the sum can be largest. The counts were
read off that step under torch's FakeTensorMode, which `gswa.backends.torch.fake` asks anew for any model as a second opinion.
N is the tokens of a micro-batch, H the hidden width, M the MLP's, Q and K heads × width, V the vocabulary, b bytes per number.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gswa.cgroup import GB
from gswa.config import RunConfig
from gswa.errors import ConfigError
from gswa.records import Record

FORMULAS = 8  # their version, and that of how memory is given out: a correction that was fitted to others is not used
ADAPTER, GRADIENT, MOMENTS = 4, 4, 8  # per adapter parameter: fp32, its gradient, AdamW's two moments
NUMBER = {"fp32": 4, "bf16": 2, "fp16": 2}
NF4 = 4 / 8 + (1 + 4 / 256) / 64  # per weight: 4 bits; per 64 weights a scale of 8 bits; per 256 scales one of 32 (QLoRA, 2305.14314)
LOSS_CHUNK = 256  # target tokens that meet the head at once: 64 cost 15 % more time, 1024 four times the memory
FILLED = 64  # rows of it in 16 bits on a CPU are a multiple of this
AT_ONCE = {"fp32": 1024, "bf16": 2048, "fp16": 2048}  # rows that go through the MLP together on a CPU (blocks.py there)
QUERY_BLOCK = {4: 48, 2: 64}  # queries whose scores exist at once on a CPU, by bytes of a number: gswa/backends/torch/attention.py
STRIDE = 256  # tokens: a CPU's gradients of keys and values have so many, or a multiple of it, in 16 bits: attention.py there too
# Until this machine's own measurements say it better: the process before a model is loaded (libraries, or the CUDA context), what
# it takes to work at all (threads, code read in, scratch of the matrix library), and what an allocator holds beyond what is alive.
BASELINE_GB = {"cpu": 0.28, "cuda": 0.6, "metal": 0.5}
WORKING_GB = {"cpu": 0.07, "cuda": 0.1, "metal": 0.1}
KERNELS_GB = 0.065  # in 16 bits on a CPU: oneDNN compiles one for each shape, and a child keeps 128 (gswa/backends/child.py)
HELD = {"cpu": 1.0, "cuda": 1.05, "metal": 1.1}
# glibc does not give every place under 32 MiB that a freed tensor has left to one of the same size, though children run with its
# small-block caches off (gswa/backends/child.py); a child under a memory limit gives each tensor pages of its own.
FRAGMENTED, OWN_PAGES_FROM = 1.2, 32 * 2**20

# Families by what sets them apart from Llama.
PACKED = ("phi3",)  # q, k and v are one matrix, gate and up another
LEAN_NORMS = ("llama", "mistral", "qwen2", "qwen3", "phi3")  # gswa/backends/torch/blocks.py: the output is made again, not kept
LEAN_MLP = ("llama", "mistral", "qwen2", "qwen3")  # the same of silu(gate) · up
FOUR_NORMS = ("gemma2", "gemma3_text")  # before and after attention and MLP
HEAD_NORMS = ("qwen3", "gemma3_text")  # of each head's query and key
CAPPED = ("gemma2",)  # logits and scores are capped, so that all of them are kept
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text")
TIED_UNLESS_SAID = ("gemma", "gemma2", "gemma3_text")


class Shape(NamedTuple):
    """A decoder's sizes. `queries` and `keys` are heads × the width of a head; `mlx_bits` are those of MLX's own quantisation."""

    family: str
    hidden: int
    inner: int
    blocks: int
    heads: int
    head: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool
    biases: int
    mlx_bits: int = 0

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of one block's linear layers, all of which are adapted."""
        hidden, inner, out = self.hidden, self.inner, (self.queries, self.hidden)
        if self.family in PACKED:
            return (hidden, self.queries + 2 * self.keys), out, (hidden, 2 * inner), (inner, hidden)
        return (hidden, self.queries), (hidden, self.keys), (hidden, self.keys), out, (hidden, inner), (hidden, inner), (inner, hidden)

    @property
    def quantised(self) -> int:
        """Weights that 4 bits apply to: those of the blocks' linear layers."""
        return self.blocks * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def plain(self) -> int:
        """Weights that bitsandbytes leaves as they are: embeddings, head, norms, biases."""
        norms = self.hidden * (4 if self.family in FOUR_NORMS else 2) + (2 * self.head if self.family in HEAD_NORMS else 0)
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.blocks * (norms + self.biases) + self.hidden

    @property
    def parameters(self) -> int:
        return self.quantised + self.plain


def read_shape(config: Mapping[str, Any]) -> Shape:
    """Of a config.json. Raises ConfigError for an architecture that these formulas do not know."""
    config = config.get("text_config", config)  # of a model that also sees
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise ConfigError(f"memory cannot be predicted for models of type {family}; known are {', '.join(FAMILIES)}")
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    key_heads = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, key_heads * head
    attention_bias = config.get("attention_bias", family == "qwen2")
    return Shape(
        family=family,
        hidden=hidden,
        inner=int(config["intermediate_size"]),
        blocks=int(config["num_hidden_layers"]),
        heads=heads,
        head=head,
        queries=queries,
        keys=keys,
        vocabulary=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", family in TIED_UNLESS_SAID)),
        biases=queries + 2 * keys + (hidden if family != "qwen2" else 0) if attention_bias else 0,
        mlx_bits=int((config.get("quantization") or {}).get("bits", 0)),
    )


class Prediction(Record):
    """The peak of each phase in GB, the process itself (`baseline_gb`) included. `moment` is where in the step training peaks."""

    baseline_gb: float
    weights_gb: float
    adapter_gb: float
    load_gb: float
    train_gb: float
    evaluate_gb: float
    save_gb: float
    moment: str

    @property
    def peak_gb(self) -> float:
        return max(self.load_gb, self.train_gb, self.evaluate_gb, self.save_gb)


class Alive(NamedTuple):
    """GB of live tensors at the peak of training and of evaluation, as `gswa.backends.torch.fake` counts them."""

    train_gb: float
    evaluate_gb: float


class Rows(NamedTuple):
    """Tokens of the longest row of training and of evaluation, and the share of a row that carries loss."""

    train: int
    evaluate: int
    targets: float = 1.0


def predict(shape: Shape, config: RunConfig, rows: Rows | None = None, counted: Alive | None = None) -> Prediction:
    """The peaks for these settings. Without `rows` every row is as long as `max_seq_length` allows and all loss. What was `counted`
    takes the place of the formulas for activations."""
    rows = rows or Rows(config.max_seq_length, config.max_seq_length)
    train, evaluate = (max(1, min(tokens, config.max_seq_length)) for tokens in (rows.train, rows.evaluate))
    rows = rows._replace(train=train, evaluate=evaluate)
    baseline = BASELINE_GB[config.device]
    adapter = adapter_parameters(shape, config)
    weights = base_bytes(shape, config) + ADAPTER * adapter
    trained, evaluated = weights + (GRADIENT + MOMENTS) * adapter, weights + MOMENTS * adapter
    moments = _moments(shape, config, rows)
    moment = max(moments, key=lambda name: moments[name])
    passing = moments[moment], _evaluation(shape, config, rows)
    if counted is not None:
        passing = counted.train_gb * GB - trained, counted.evaluate_gb * GB - evaluated

    def total(lasting: float, passing: float = 0.0) -> float:
        alive = lasting + passing * _fragmentation(shape, config, rows)
        return baseline + working_gb(config) + HELD[config.device] * alive / GB

    return Prediction(
        baseline_gb=baseline,
        weights_gb=base_bytes(shape, config) / GB,
        adapter_gb=(ADAPTER + GRADIENT + MOMENTS) * adapter / GB,
        load_gb=total(base_bytes(shape, config) + largest_tensor(shape)),
        train_gb=total(trained, passing[0]),
        evaluate_gb=total(evaluated, passing[1]),
        save_gb=total(weights + (ADAPTER + MOMENTS) * adapter),
        moment=moment if counted is None else "",
    )


def working_gb(config: RunConfig) -> float:
    return WORKING_GB[config.device] + (KERNELS_GB if config.device == "cpu" and _halved(config) else 0.0)


def _fragmentation(shape: Shape, config: RunConfig, rows: Rows) -> float:
    """What passing tensors take over what is alive of them: all of FRAGMENTED while the MLP's are small, less the larger they are."""
    if config.device != "cpu" or config.memory_limit_gb is not None:
        return 1.0
    largest = config.batch_size * rows.train * shape.inner * NUMBER[config.number_format]
    return 1.0 + (FRAGMENTED - 1.0) * min(1.0, OWN_PAGES_FROM / largest)


# -- weights -------------------------------------------------------------------------------------------------------------
def base_bytes(shape: Shape, config: RunConfig) -> float:
    """The frozen base as it lies in memory."""
    number = NUMBER[config.number_format]
    if shape.mlx_bits:
        return shape.parameters * (shape.mlx_bits / 8 + 4 / 64)  # per 64 weights a scale and a bias of 16 bits; embeddings too
    return shape.quantised * (NF4 if config.quantization == "4bit" else number) + shape.plain * number


def adapter_parameters(shape: Shape, config: RunConfig) -> int:
    return adapted_blocks(shape, config) * sum(config.lora_rank * (inputs + outputs) for inputs, outputs in shape.linears)


def adapted_blocks(shape: Shape, config: RunConfig) -> int:
    return min(config.num_layers or shape.blocks, shape.blocks)


def largest_tensor(shape: Shape) -> int:
    """In 16 bits, as it comes from the file."""
    return 2 * max(shape.vocabulary * shape.hidden, *(inputs * outputs for inputs, outputs in shape.linears))


def _halved(config: RunConfig) -> bool:
    """Whether numbers have 16 bits."""
    return NUMBER[config.number_format] == 2


# -- activations ---------------------------------------------------------------------------------------------------------
def kept_per_token(shape: Shape, config: RunConfig, tokens: int, again: bool = False) -> int:
    """What autograd keeps of one block for one token of a row of `tokens`; `again`: of a block that is gone through again.

    In b: the inputs of the norms (H each, also of the heads' norms; our own keep a number in fp32 beside them); q, k, v and attention's
    output (2 Q + 2 K); gate and up (2 M).
    A kernel of a GPU keeps a number for each query head beside them (fp32). What follows is made again by our own blocks and kept
    by the library's: the norms' outputs (H each, as inputs of q, k, v and of gate, up), and silu(gate) · up (M; never where the
    MLP is one function of ours). The library's norms keep their inputs in fp32, its MLP silu(gate) too (M).
    """
    b, hidden, inner, queries, keys = NUMBER[config.number_format], shape.hidden, shape.inner, shape.queries, shape.keys
    lean_norms, lean_mlp = shape.family in LEAN_NORMS, shape.family in LEAN_MLP
    norms = (4 if shape.family in FOUR_NORMS else 2) * hidden + (queries + keys if shape.family in HEAD_NORMS else 0)
    outputs = 0 if lean_norms and not again else 2 * hidden
    if shape.family in CAPPED:
        attention = b * 4 * queries + 8 * shape.heads * tokens  # keys and values repeated for each query head; all scores twice
    else:
        copied = config.device == "cpu" and config.batch_size > 1 and keys > shape.head
        attention = b * (2 * queries + 2 * keys) + (0 if config.device == "cpu" else 4 * shape.heads)
        if shape.family in PACKED and not copied:
            attention += b * (queries + keys)  # the values are a part of the packed product, and keep all of it
    mlp = inner * (4 if not lean_mlp else 3 if again and not by_blocks(shape, config) else 2)
    return (b * norms + 8 if lean_norms else 4 * norms) + b * outputs + attention + b * mlp


def activations(shape: Shape, config: RunConfig, rows: Rows) -> float:
    """Bytes of activations alive when a training micro-batch has the most of them."""
    return max(_moments(shape, config, rows).values())


def _moments(shape: Shape, config: RunConfig, rows: Rows) -> dict[str, float]:
    """Activations alive at the moments of a micro-batch that can be its largest."""
    n, b, hidden = config.batch_size * rows.train, NUMBER[config.number_format], shape.hidden
    adapted, lean = adapted_blocks(shape, config), shape.family in LEAN_NORMS
    last = n * hidden * (b if lean else 4)  # of the norm after the blocks
    norm = 2 * b if lean and config.device == "cpu" else 12 if b == 4 else 16 if lean else 20
    if config.gradient_checkpointing:
        kept, again = adapted * n * hidden * b, n * kept_per_token(shape, config, rows.train, again=True)
        last = last if b == 2 and not lean else 0  # else it is the last block's output, which is there
    else:
        # Nothing trains below the first norm of the first block, so that it keeps no input; ours would have kept no output.
        first = 0 if lean or adapted < shape.blocks else 4 * n * hidden
        kept, again = adapted * n * kept_per_token(shape, config, rows.train) - first, 0
    return {
        "loss": kept + last + n * hidden * b + _loss(shape, config, n, rows.targets, training=True),
        # Backward of the norm after the blocks, or of that after the last block's MLP: three to five tensors in fp32, ours on a CPU
        # the two gradients.
        "norm": kept + max(last, again if shape.family in FOUR_NORMS else 0) + n * hidden * norm,
        "MLP": kept + again + n * hidden * b + _mlp_backward(shape, config, n),
        "attention": kept + again + _attention_backward(shape, config, n, rows.train),
    }


def _at_once(config: RunConfig, n: int) -> int:
    """Rows of a plain base that go through a lean MLP together."""
    return min(n, AT_ONCE[config.number_format]) if config.device == "cpu" else n


def by_blocks(shape: Shape, config: RunConfig) -> bool:
    """Whether the MLP is one function, with its adapters."""
    plain = config.quantization != "4bit" and not config.lora_dropout and config.device != "metal"
    return shape.family in LEAN_MLP and plain and not shape.mlx_bits


def _mlp_backward(shape: Shape, config: RunConfig, n: int) -> float:
    """Beside the gradient of its output. Where the MLP is one function: three tensors of a block, the weights made for the products,
    x's gradient, and x, which a checkpointed block has. Elsewhere: the product, which such a block has too, and two more of its size.
    """
    b, made = NUMBER[config.number_format], 0 if config.gradient_checkpointing else n
    wide, narrow = shape.inner * b, shape.hidden * b
    if by_blocks(shape, config):
        return made * narrow + _mlp_weights(shape, config) + max(3 * _at_once(config, n) * wide + n * narrow, 2 * n * narrow)
    product = made * wide if shape.family in LEAN_MLP else 0
    return product + max(2 * n * wide, n * wide + _linear_temporary(shape, config))


def _mlp_weights(shape: Shape, config: RunConfig) -> float:
    """Of gate, up and down with their adapters, where those are made."""
    return 3 * shape.hidden * shape.inner * 4 if config.number_format == "fp32" else 0


def _loss(shape: Shape, config: RunConfig, n: int, targets: float, training: bool) -> float:
    """Logits of one chunk, their softmax, and in training the picked hidden states and their gradient."""
    b, chosen = NUMBER[config.number_format], n * targets
    if shape.family in CAPPED:
        return n * shape.vocabulary * ((16 if b == 4 else 14) if training else 8 if b == 4 else 10)
    chunk = min(LOSS_CHUNK, chosen)
    filled = -(-round(chunk) // FILLED) * FILLED if config.device == "cpu" and _halved(config) else chunk
    logits = shape.vocabulary * (4 * chunk + (2 * filled if b == 2 else 0))
    return logits + chosen * shape.hidden * b * (2 if training else 1) + filled * shape.hidden * b


def _linear_temporary(shape: Shape, config: RunConfig) -> float:
    """Largest weight made for one product: base plus adapter in fp32, or the base out of its 4 bits."""
    weight = max(inputs * outputs for inputs, outputs in shape.linears)
    if config.quantization == "4bit" or shape.mlx_bits:
        return weight * NUMBER[config.number_format]
    return weight * 4 if config.number_format == "fp32" else 0


def _scores(shape: Shape, config: RunConfig, n: int, tokens: int) -> float:
    """Of the largest block of queries on a CPU, twice; none on devices whose kernels keep them on chip."""
    if config.device != "cpu" or shape.family in CAPPED:
        return 0.0
    block = QUERY_BLOCK[NUMBER[config.number_format]]
    rest = tokens % block  # which the last block has, and of all the most keys
    return n / tokens * max(block * (tokens - rest), rest * tokens) * shape.heads * 2 * NUMBER[config.number_format]


def _attention_backward(shape: Shape, config: RunConfig, n: int, tokens: int) -> float:
    """The MLP's share is free by then; gradients of q, k, v and of the output stand beside what attention kept."""
    b, hidden, queries, keys = NUMBER[config.number_format], shape.hidden, shape.queries, shape.keys
    lean = shape.family in LEAN_MLP and (not config.gradient_checkpointing or by_blocks(shape, config))
    freed = b * shape.inner * (2 if lean else 3) + b * hidden
    padded = -(-tokens // STRIDE) * STRIDE / tokens if config.device == "cpu" and _halved(config) else 1.0
    whole = 2 if keys == shape.head else 3  # of all heads: the gradients of q and of the output, whose heads are grouped in a copy
    grown = b * (hidden + whole * queries + 2 * keys * padded) + _eager_backward(shape, config, tokens)
    return n * (grown - freed) + _scores(shape, config, n, tokens)


def _eager_backward(shape: Shape, config: RunConfig, tokens: int) -> int:
    """Of attention that keeps its scores: their gradients; where they are made again too, one tensor of them more."""
    return shape.heads * tokens * (16 if config.gradient_checkpointing else 10) if shape.family in CAPPED else 0


def _evaluation(shape: Shape, config: RunConfig, rows: Rows) -> float:
    """A forward pass: one block at a time, then the loss. Nothing is kept."""
    n, b, hidden = config.eval_batch_size * rows.evaluate, NUMBER[config.number_format], shape.hidden
    attention = n * b * (2 * hidden + 3 * shape.queries + 4 * shape.keys) + _scores(shape, config, n, rows.evaluate)
    if shape.family in CAPPED:
        attention += n * shape.heads * rows.evaluate * (8 if b == 4 else 10)
    mlp = n * b * (4 * hidden + 3 * shape.inner) + _linear_temporary(shape, config)
    if by_blocks(shape, config):
        mlp = n * b * 4 * hidden + 3 * _at_once(config, n) * shape.inner * b + _mlp_weights(shape, config)
    return max(attention, mlp, n * hidden * b + _loss(shape, config, n, rows.targets, training=False))

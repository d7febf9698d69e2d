"""How fast settings train, up to a factor: floating-point operations per token, and what a micro-batch costs beside them.

Good enough to say which candidates to measure; what is measured decides.
"""

from collections.abc import Mapping

from gswa.config import RunConfig
from gswa.memory import Shape, adapted_blocks

# Operations per second in fp32 where none was measured: only their ratio to the overhead matters.
SPEED = {"cpu": 5e10, "cuda": 2e13, "metal": 3e12}
FASTER = {"cpu": 1.0, "cuda": 4.0, "metal": 2.0}  # in 16 bits, where it was not measured
BLOCK_SECONDS = 1e-3  # Python and kernel launches of one block, forward and backward
DEQUANTISED = {"cpu": 20, "cuda": 200, "metal": 20}  # operations that one weight out of its 4 bits takes the time of


def tokens_per_second(shape: Shape, config: RunConfig, tokens: int, measured: Mapping[str, float] | None = None) -> float:
    """Of micro-batches of rows of `tokens`. `measured`: GFLOP/s by number format, as the device showed them."""
    rows = config.batch_size * min(tokens, config.max_seq_length)
    speed = _speed(config, measured or {})
    seconds = (rows * per_token(shape, config, min(tokens, config.max_seq_length)) + per_micro_batch(shape, config)) / speed
    return rows / (seconds + passes(shape, config) / 2 * BLOCK_SECONDS)


def per_token(shape: Shape, config: RunConfig, tokens: int) -> float:
    """Operations for one target token: a product of n weights takes 2 n, causal attention 2 Q × tokens; backward once more for the
    linear layers (their weights are frozen), two and a half times for attention; the head forward and for its input's gradient."""
    linear = 2 * sum(inputs * outputs for inputs, outputs in shape.linears)
    attention = 2 * shape.queries * tokens
    adapter = 8 * config.lora_rank * sum(inputs + outputs for inputs, outputs in shape.linears)
    adapted = adapted_blocks(shape, config)
    backward = adapted * (linear + 2.5 * attention + adapter)
    return _forwards(shape, config) * (linear + attention) + backward + 4 * shape.vocabulary * shape.hidden


def per_micro_batch(shape: Shape, config: RunConfig) -> float:
    """Operations that do not grow with its tokens: base + adapter made anew in fp32, or the base out of its 4 bits."""
    weights = sum(inputs * outputs for inputs, outputs in shape.linears)
    if config.quantization == "4bit" or shape.mlx_bits:
        return passes(shape, config) * weights * DEQUANTISED[config.device]
    return passes(shape, config) * weights * 2 * config.lora_rank if config.number_format == "fp32" else 0.0


def passes(shape: Shape, config: RunConfig) -> int:
    """Blocks gone through, forward and backward."""
    return _forwards(shape, config) + adapted_blocks(shape, config)


def _forwards(shape: Shape, config: RunConfig) -> int:
    return shape.blocks + (adapted_blocks(shape, config) if config.gradient_checkpointing else 0)


def _speed(config: RunConfig, measured: Mapping[str, float]) -> float:
    found = measured.get(config.number_format)
    return found * 1e9 if found else SPEED[config.device] * (1.0 if config.number_format == "fp32" else FASTER[config.device])

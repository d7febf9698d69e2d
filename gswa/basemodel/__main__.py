"""`python -m gswa.basemodel build [--out FOLDER] [--seconds CPU_SECONDS] [--seed N]`: make the built-in model anew."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gswa.basemodel.build import build
from gswa.config import BUILTIN_MODEL
from gswa.errors import GswaError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gswa.basemodel", description="Make the built-in base model anew.")
    parser.add_argument("command", choices=["build"])
    parser.add_argument("--out", type=Path, default=Path("build") / BUILTIN_MODEL, help="a new folder (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=300, help="CPU-seconds of pretraining, all threads together (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        built = build(asked.out, asked.seconds, asked.seed)
    except GswaError as error:
        parser.exit(error.exit_code, f"{error}\n")
    logging.getLogger("gswa").info(
        "%s: %d steps, %d tokens, loss on held-out texts %.3f nats per token", asked.out, built.steps, built.tokens, built.held_out_loss
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

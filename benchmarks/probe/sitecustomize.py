"""What a trainer does, counted from inside of its own process, which it reaches through PYTHONPATH; the trainer is not changed.

After each optimizer step: the CPU seconds of this process, the tokens that entered the word embedding while gradients were
on, padding apart, and the peak of resident memory. `PROBE_OUT` names the file, `PROBE_PAD` the padding token, `PROBE_T0` when the
trainer was started.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

OUT, PAD = os.environ.get("PROBE_OUT"), int(os.environ.get("PROBE_PAD", "-1"))
LEAST_WORDS = 1000  # of an embedding that is the model's own
seen = {"t0": float(os.environ.get("PROBE_T0", "0")), "baseline_mb": 0.0, "steps": [], "tokens": 0, "padding": 0, "rows": 0}


def _memory_mb(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


def _watch_optimizer(module):
    def after_step(*_):
        step = {"wall": time.time(), "cpu": time.process_time(), "peak_mb": _memory_mb("VmHWM:")}
        seen["steps"].append({**step, "tokens": seen["tokens"], "padding": seen["padding"], "rows": seen["rows"]})
        Path(OUT).write_text(json.dumps(seen))

    module.register_optimizer_step_post_hook(after_step)


def _watch_embedding(module):
    made, forward = module.Embedding.__init__, module.Embedding.forward

    def watched_init(self, *arguments, **options):
        made(self, *arguments, **options)
        if self.num_embeddings > LEAST_WORDS and not seen["baseline_mb"]:  # the libraries are there, the model is not
            seen["baseline_mb"] = _memory_mb("VmRSS:")

    def watched_forward(self, ids):
        import torch

        if torch.is_grad_enabled() and ids.ndim == 2 and self.num_embeddings > LEAST_WORDS:
            padding = int((ids == PAD).sum())
            seen["padding"] += padding
            seen["tokens"] += ids.numel() - padding
            seen["rows"] += ids.shape[0]
        return forward(self, ids)

    module.Embedding.__init__, module.Embedding.forward = watched_init, watched_forward


def _constant_rate(module):
    module.FLOOR = 1.0  # the setting of this comparison: no trainer lets the learning rate fall


WATCHED = {
    "torch.optim.optimizer": _watch_optimizer,
    "torch.nn.modules.sparse": _watch_embedding,
    "gswa.backends.torch.trainer": _constant_rate,
}


class Finder(importlib.abc.MetaPathFinder):
    """Lets a module load as usual, then watches it."""

    def find_spec(self, name, path=None, target=None):
        watch = WATCHED.pop(name, None)
        spec = importlib.util.find_spec(name) if watch else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_watch(module):
            load(module)
            watch(module)

        spec.loader.exec_module = load_and_watch
        return spec


if OUT:
    sys.meta_path.insert(0, Finder())

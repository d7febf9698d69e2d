"""README.md of the adapters' folder: what this adapter is, and how to use it."""

from gswa.export.adapter import Adapter
from gswa.export.bases import Base, licence
from gswa.export.modelfile import one_line
from gswa.models import PERMISSIVE, licence_note
from gswa.rundir import RunDir

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank accepts
UNKNOWN_LICENCE = "not recorded; see the base model's own page"

PEFT_USE = """transformers and PEFT:
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{model}", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("{model}")
model = PeftModel.from_pretrained(base, "{folder}")
```
"""
VLLM_USE = """vLLM:
```bash
vllm serve {model} --enable-lora --max-lora-rank {rank} --lora-modules gswa-gilles={folder} --port 8000
```
"""
OLLAMA_USE = """Ollama:
```bash
ollama create gswa-gilles -f {folder}/Modelfile
ollama run gswa-gilles
```
"""


def vllm_rank(rank: int) -> int | None:
    """The smallest setting that takes an adapter of this rank."""
    return next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)


def model_card(run: RunDir, adapter: Adapter, base: Base, has_modelfile: bool) -> str:
    """Markdown. A base in a local folder is named by the folder's last part: the card may leave the machine."""
    sections = [_front_matter(base), f"# GSWA adapter, run {run.id}\n\nA LoRA adapter that was trained to write like one author.\n"]
    said = licence(base)
    note = licence_note(one_line(base.name), said) if said else ""
    sections += [f"> **Licence**: {note}.\n"] if note else []
    sections += [_facts(run, adapter, base), _use(run, adapter, base, has_modelfile)]
    return "\n".join(sections)


def _front_matter(base: Base) -> str:
    lines = ["---", "library_name: peft", "pipeline_tag: text-generation", "tags: [lora, gswa]"]
    if base.kind == "hub":
        lines.append(f"base_model: {base.model_id}")
    if said := licence(base):
        lines += [f"license: {said}"] if said in PERMISSIVE else ["license: other", f"license_name: {said}"]
    return "\n".join([*lines, "---", ""])


def _facts(run: RunDir, adapter: Adapter, base: Base) -> str:
    summary, step = run.summary(), run.metadata().get("chosen_step")
    rows = [
        ("Base model", one_line(base.name)),
        ("Licence of the base model", licence(base) or UNKNOWN_LICENCE),
        ("LoRA", f"rank {adapter.rank}, alpha {adapter.alpha:g}, {len(adapter.pairs)} linear layers, fp32"),
        ("Checkpoint", f"optimizer step {step} of {summary.steps}" if step is not None else ""),
        ("Loss on validation documents, nats per token", _before_after(summary.valid_loss_before, summary.valid_loss_after)),
        ("Loss on test documents, nats per token", _before_after(summary.test_loss_before, summary.test_loss_after)),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows if value), ""])


def _before_after(before: float | None, after: float | None) -> str:
    return f"{before:.4f} before, {after:.4f} after" if before is not None and after is not None else ""


def _use(run: RunDir, adapter: Adapter, base: Base, has_modelfile: bool) -> str:
    folder = f"runs/{run.id}/adapters"
    model = {"builtin": f"gswa/data/{base.model_id}", "hub": base.model_id, "local": "path/to/base-model"}[base.kind]
    rank = vllm_rank(adapter.rank)
    parts = ["## Use\n\nRun these in GSWA's folder.\n", PEFT_USE.format(model=model, folder=folder)]
    parts += [VLLM_USE.format(model=model, folder=folder, rank=rank)] if rank else []
    parts += [OLLAMA_USE.format(folder=folder)] if has_modelfile else []
    return "\n".join(parts)

"""reports/report.html: one file without scripts that opens offline. Sections whose data the run lacks are absent."""

import base64
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from gswa import planner
from gswa.files import write_atomically
from gswa.report import figures, tables
from gswa.report.measures import headline
from gswa.report.tables import Table
from gswa.rundir import RunDir, now

TEMPLATES = Path(__file__).parent / "templates"


class Part(NamedTuple):
    """A picture, a table or both under one heading; `note` says how to read it."""

    title: str
    note: str = ""
    figure: str = ""  # data URI
    alt: str = ""
    tables: tuple[Table, ...] = ()

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def write_report(run: RunDir) -> Path:
    """Raises ConfigError where the run's own files are damaged."""
    write_atomically(run.report_file, render(run))
    return run.report_file


def render(run: RunDir) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(content(run))


def content(run: RunDir) -> dict[str, Any]:
    """What the template shows, as plain text: the template escapes it."""
    metadata, summary, evaluation = run.metadata(), run.summary(), run.evaluation()
    return {
        "summary": summary,
        "description": metadata.get("description", ""),
        "error": metadata.get("error") or "",
        "written": now(),
        "headline": headline(run),
        "measured": [part for part in measured_parts(run) if part.figure or part.tables],
        "samples": evaluation.samples if evaluation else (),
        "recorded": [part for part in recorded_parts(run) if part.tables],
        "reproduce": reproduce(run),
        "exports": tables.exports_table(run),
        "ollama": ollama(run),
        "python": python_snippet(run),
    }


def measured_parts(run: RunDir) -> list[Part]:
    trained = bool(run.steps())
    lengths = run.length_stats().get("all")
    return [
        Part("Held-out loss before and after", HELD_OUT, tables=_present(tables.held_out_table(run))),
        _drawn(run, "Loss", "loss", trained, LOSS, tables.evaluations_table(run)),
        Part("Out of memory", OUT_OF_MEMORY, tables=_present(tables.fallbacks_table(run))),
        _drawn(run, "Throughput", "throughput", trained, THROUGHPUT),
        _drawn(run, "Memory", "memory", trained, MEMORY, tables.memory_table(run)),
        Part("Plan", PLAN, tables=_present(tables.plan_table(run))),
        _drawn(
            run, "Data", "length_distribution", lengths is not None, LENGTHS,
            tables.prepared_table(run), tables.lengths_table(run), tables.set_aside_table(run),
        ),
        Part("Conservation check", conserved(run), tables=_present(tables.conservation_table(run))),
    ]  # fmt: skip


def recorded_parts(run: RunDir) -> list[Part]:
    return [
        Part("Configuration", CONFIGURATION, tables=_present(tables.config_table(run))),
        Part("Environment", tables=_present(tables.provenance_table(run), tables.environment_table(run))),
    ]


HELD_OUT = "Loss in nats per target token on documents that were not trained on; lower is better."
LOSS = "Each step's loss with its moving average, and the held-out loss where it was measured."
OUT_OF_MEMORY = "Each time memory ran out, the settings stepped down and training went on from the last checkpoint."
THROUGHPUT = "Tokens without padding, per second. A drop may mean memory pressure or a smaller batch."
MEMORY = "The peak since the previous step, in GB of 2³⁰ bytes. On a CPU what one step freed is kept for the next, and counted."
PLAN = f"Candidates, best first: {planner.EXPLAINED}"
LENGTHS = "Lengths in tokens as the chat template renders them. 'Would be cut': what a trainer that truncates would have cut."
CONFIGURATION = "Every setting as it was used, and what it came from."


def conserved(run: RunDir) -> str:
    """The balance in one sentence, where the check counted it."""
    found = run.conservation()
    names = ("characters_in", "characters_in_chunks", "characters_between", "characters_set_aside")
    if not all(isinstance(found.get(name), int) for name in names):
        return "Counted in characters, on what was stored."
    given, chunks, between, aside = (f"{found[name]:,}" for name in names)
    return f"{given} characters in = {chunks} in chunks + {between} of white space between them + {aside} set aside."


def _drawn(run: RunDir, title: str, plot: str, present: bool, note: str, *beside: Table | None) -> Part:
    if not present:
        return Part(title, note, tables=_present(*beside))
    figure = figures.PLOTS[plot](run)
    uri = "data:image/svg+xml;base64," + base64.b64encode(figures.svg(figure)).decode()
    return Part(title, note, uri, figure.get_suptitle(), _present(*beside))


def _present(*found: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in found if table is not None)


# -- what to do next ---------------------------------------------------------------------------------------------------
def _place(run: RunDir) -> str:
    """`runs/<id>` where the run lies in a project's folder, else its path."""
    return f"runs/{run.id}" if run.path.parent.name == "runs" else str(run.path)


def reproduce(run: RunDir) -> str:
    return (
        f"python -m gswa.train train --config {shlex.quote(_place(run) + '/config/run_config.json')}" if run.config_file.is_file() else ""
    )


def ollama(run: RunDir) -> str:
    """'' where no Modelfile was written."""
    place = shlex.quote(f"{_place(run)}/adapters/Modelfile")
    return f"ollama create gswa-gilles -f {place}\nollama run gswa-gilles" if (run.adapters / "Modelfile").is_file() else ""


def python_snippet(run: RunDir) -> str:
    """Loads base and adapter with transformers and PEFT; '' where there is no adapter."""
    try:
        adapter = json.loads((run.adapters / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    base = str(adapter.get("base_model_name_or_path") or run.summary().model)
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = {base!r}\n"
        "tokenizer = AutoTokenizer.from_pretrained(base)\n"
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {_place(run) + '/adapters'!r})\n\n"
        'messages = [{"role": "user", "content": "Write a paragraph about ..."}]\n'
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)\n'
        "answer = model.generate(**inputs, max_new_tokens=200)\n"
        'print(tokenizer.decode(answer[0][inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
    )

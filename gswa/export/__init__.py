"""A finished run's adapter in the forms that other programs load, each read back before it is put in place."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gswa.basemodel import resolve_model
from gswa.dataset import Tokenizer, load_tokenizer
from gswa.errors import GswaError
from gswa.export.adapter import Adapter, read_adapter
from gswa.export.bases import Base, BaseKind, read_base
from gswa.export.card import model_card
from gswa.export.chat import Chat, Render, Turn, recognise, starts_with_bos, without_generation_marks
from gswa.export.gguf_writer import base_obstacle, write_adapter, write_base
from gswa.export.merged import write_merged
from gswa.export.modelfile import Modelfile, holdable
from gswa.export.replay import check_answers
from gswa.export.verify import check_adapter, check_base, check_merged
from gswa.records import Example, Record
from gswa.rundir import RunDir

log = logging.getLogger("gswa")

Form = Literal["modelfile", "merged", "gguf"]
ADAPTER_FILE, BASE_FILE = "gswa-adapter.gguf", "gswa-base.gguf"


class ExportReport(Record):
    """What was written (paths inside the run) and what was left out, with the reason in `notes`.

    `verified`: every exported file was read back and compared, `checked` says with what. `ollama_base` is what FROM names.
    """

    to: Form
    base_kind: BaseKind
    ollama_base: str | None
    files: tuple[str, ...]
    notes: tuple[str, ...]
    verified: bool
    checked: tuple[str, ...]


class Written(NamedTuple):
    """What could not be written is in `notes`; `ollama_base` is None where there is no Modelfile."""

    notes: list[str]
    ollama_base: str | None = None


def export(run: RunDir, to: Form = "modelfile", ollama_base: str | None = None, verify: bool = True) -> ExportReport:
    """Write `adapters/` for Ollama and llama.cpp, or `merged/`; noted by form in metadata.json as `export`.

    `ollama_base` takes the place of what FROM would name. Raises DataError without an adapter, ExportFault when a file
    read back is not what was trained; then nothing was put in place.
    """
    adapter = read_adapter(run.adapters)
    model_id = run.current_config().model_id
    report = export_adapter(run, adapter, read_base(model_id, resolve_model(model_id)), to, ollama_base, verify)
    for note in report.notes:
        log.warning("export: %s", note)
    run.update(export={**run.metadata().get("export", {}), to: report.model_dump()})
    return report


def export_adapter(run: RunDir, adapter: Adapter, base: Base, to: Form, ollama_base: str | None, verify: bool) -> ExportReport:
    """The files themselves: written to a folder beside, read back, then put in place. Raises as `export` does."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=run.path) as folder:
            scratch = RunDir(Path(folder))  # laid out like the run
            written = _merged(adapter, base, scratch) if to == "merged" else _adapters(run, adapter, base, to, ollama_base, scratch)
            checked = tuple(_checks(run, base, scratch)) if verify else ()
            files = tuple(_put_in_place(scratch.path, run.path))
    except OSError as error:
        raise GswaError(f"{run.path}: the export cannot be written ({error.strerror or error}); free space or make it writable") from error
    return ExportReport(
        to=to,
        base_kind=base.kind,
        ollama_base=written.ollama_base,
        files=files,
        notes=tuple(written.notes),
        verified=bool(checked),
        checked=checked,
    )


def training_systems(examples: Iterable[Example]) -> set[str]:
    """The system texts of the examples; an example without one counts as the empty text."""
    firsts = (example.messages[0] for example in examples)
    return {first.content if first.role == "system" else "" for first in firsts}


def _merged(adapter: Adapter, base: Base, scratch: RunDir) -> Written:
    write_merged(adapter, base, scratch.merged)
    return Written([])


def _adapters(run: RunDir, adapter: Adapter, base: Base, to: Form, ollama_base: str | None, scratch: RunDir) -> Written:
    scratch.adapters.mkdir()
    written = _gguf_files(run, adapter, base, to, ollama_base, scratch.adapters)
    has_modelfile = any((folder / "Modelfile").is_file() for folder in (scratch.adapters, run.adapters))
    card = model_card(run, adapter, base, has_modelfile)
    (scratch.adapters / "README.md").write_text(card, encoding="utf-8")
    return written


def _gguf_files(run: RunDir, adapter: Adapter, base: Base, to: Form, ollama_base: str | None, folder: Path) -> Written:
    if base.architecture is None:
        return Written(
            [f"{base.transformers_architecture} adapters are not written as GGUF; the PEFT files are there for vLLM and transformers"]
        )
    write_adapter(adapter, base, folder / ADAPTER_FILE)
    name = ollama_base if ollama_base is not None else base.known.ollama if base.known else None
    if name is None and base.kind != "hub":
        return _beside_own_base(run, adapter, base, to, folder)
    if to == "gguf":
        return Written([])
    if name is None:
        return Written([f"no Ollama library model is known for {base.model_id}; name one with --ollama-base"])
    return _modelfile(run, adapter, base, name, folder)


def _beside_own_base(run: RunDir, adapter: Adapter, base: Base, to: Form, folder: Path) -> Written:
    if obstacle := base_obstacle(base):
        return Written([f"{base.name}: not written as {BASE_FILE}, since {obstacle}; name the same model in Ollama with --ollama-base"])
    tokenizer = load_tokenizer(base.folder)
    render, bos = _renderer(tokenizer), tokenizer.bos_token or ""
    bos = bos if starts_with_bos(render, bos) else ""
    write_base(base, folder / BASE_FILE, without_generation_marks(tokenizer.get_chat_template()), bool(bos))
    if to == "gguf":
        return Written([])
    chat = recognise(render, bos)
    if chat is None:
        return Written(
            [f"{base.name}: its chat template has no known form for Ollama, so no Modelfile; use --ollama-base, or llama.cpp with --jinja"]
        )
    return _modelfile(run, adapter, base, f"./{BASE_FILE}", folder, chat)


def _modelfile(run: RunDir, adapter: Adapter, base: Base, name: str, folder: Path, chat: Chat | None = None) -> Written:
    config = run.current_config()
    systems = training_systems(run.read_examples("train"))
    notes = ["training had several system texts, so the Modelfile has none"] if len(systems) > 1 else []
    system = "" if notes else "".join(systems)
    if not holdable(system):
        notes, system = ['the system text of training has """ in it or " at its end, so the Modelfile has none'], ""
    modelfile = Modelfile(
        run_id=run.id,
        model=base.name,
        rank=adapter.rank,
        alpha=adapter.alpha,
        base=name,
        form=chat.form if chat else None,
        system=system or (chat.default_system if chat else ""),
        context=min(2 * config.max_seq_length, int(base.config.get("max_position_embeddings") or 2 * config.max_seq_length)),
    )
    (folder / "Modelfile").write_text(modelfile.text(), encoding="utf-8")
    return Written(notes, name)


def _renderer(tokenizer: Tokenizer) -> Render:
    def render(turns: Sequence[Turn]) -> str:
        chat = [{"role": role, "content": content} for role, content in turns]
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    return render


def _checks(run: RunDir, base: Base, scratch: RunDir) -> Iterator[str]:
    """Each file that was written, read back; gives what was compared."""
    adapter, own_base = scratch.adapters / ADAPTER_FILE, scratch.adapters / BASE_FILE
    if adapter.is_file():
        yield check_adapter(adapter, run.adapters, base.folder)
    if own_base.is_file():
        yield check_base(own_base, base.folder)
        yield from check_answers(own_base, adapter, run.adapters, base.folder)
    if scratch.merged.is_dir():
        yield check_merged(scratch.merged, run.adapters, base.folder)


def _put_in_place(scratch: Path, run: Path) -> Iterator[str]:
    for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
        target = run / file.relative_to(scratch)
        target.parent.mkdir(exist_ok=True)
        file.replace(target)
        yield str(target.relative_to(run))

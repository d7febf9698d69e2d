"""A project's folder in a temporary place: one paper each as PDF, DOCX and TXT, and the environment that keeps a run inside."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import docx

ROOT = Path(__file__).resolve().parents[1]
PDF = ROOT / "tests" / "data" / "corpus" / "pone.0046041.scrambled.pdf"
SUBJECTS = ("the strain", "each culture", "the extract", "our model", "the control group", "a mutant of the gene", "the older sample")
VERBS = ("grew faster than", "depended on", "was compared with", "changed less than", "could not be told from", "was kept apart from")
OBJECTS = ("the medium without phosphate", "the parent", "what earlier work reports", "spores at rest", "the median of four days", "light")
SECTIONS = ("Introduction", "Methods", "Results", "Discussion")


def paragraphs(seed: int, count: int = 2) -> list[str]:
    """About 90 words each, no two alike."""
    pick = random.Random(seed).choice
    return [
        " ".join(
            f"In series {seed}{number}{line}, {pick(SUBJECTS)} {pick(VERBS)} {pick(OBJECTS)}, and {pick(SUBJECTS)} {pick(VERBS)} "
            f"{pick(OBJECTS)}."
            for line in range(5)
        )
        for number in range(count)
    ]


def write_docx(path: Path, title: str, seed: int) -> None:
    document = docx.Document()
    document.add_heading(title, 0)
    for number, section in enumerate(SECTIONS):
        document.add_heading(section, 1)
        for text in paragraphs(10 * seed + number):
            document.add_paragraph(text)
    document.save(str(path))


def write_txt(path: Path, title: str, seed: int) -> None:
    parts = [title]
    for number, section in enumerate(SECTIONS):
        parts += [section, *paragraphs(10 * seed + number)]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_corpus(home: Path, pdf: bool = True) -> Path:
    """data/corpus/raw of the project's folder `home`, with or without the PDF, which is most of the text."""
    corpus = home / "data" / "corpus" / "raw"
    corpus.mkdir(parents=True)
    write_docx(corpus / "growth.docx", "Growth of soil bacteria in three media", 1)
    write_txt(corpus / "spores.txt", "Spores and what they remember of their parents", 2)
    if pdf:
        shutil.copy(PDF, corpus)
    else:
        write_txt(corpus / "light.txt", "Light has little to do with yield in darkness", 3)
    return corpus


def environment(home: Path) -> dict[str, str]:
    """The CPU, this checkout, no hub, and Prefect's own temporary server with all it writes under `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GSWA_"))}
    return kept | {
        "GSWA_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "huggingface"),
        "PREFECT_HOME": str(home / "prefect"),
    }


def gswa(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m gswa.train …` as a person calls it from the project's folder."""
    command = [sys.executable, "-m", "gswa.train", *arguments]
    return subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=600)

"""Each contestant in an environment of its own, made below one folder and kept there."""

import subprocess
import sys
import venv
from pathlib import Path


def python_with(folder: Path, name: str, requirements: list[str], without: tuple[str, ...] = ()) -> Path:
    """The Python of FOLDER/NAME, with exactly these requirements; made, or made anew, where they changed."""
    home = folder.absolute() / name
    python, noted = home / "bin" / "python", home / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if not noted.is_file() or noted.read_text() != wanted:
        print(f"making {home}: {' '.join(requirements)}", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        _pip(python, "install", *requirements)
        if without:
            _pip(python, "uninstall", "-y", *without)
        noted.write_text(wanted)
    return python


def _pip(python: Path, *arguments: str) -> None:
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python}: pip {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")

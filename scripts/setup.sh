#!/usr/bin/env bash
# Makes the environment that GSWA runs in, checks it, and does nothing when it is already there. Needs no root.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/setup.sh [--cpu | --cuda] [--dev] [--ask] [--if-needed] [--check] [--explain]
  --cpu        no CUDA, whatever the machine has
  --cuda       an NVIDIA GPU is expected: anything that keeps it from working is an error
  --dev        with what `make test` and `make check` need
  --ask        show what will be done and ask first (only on a terminal)
  --if-needed  say nothing and end at once where an environment is already complete
  --check      check the environment that is there: imports, versions, CUDA
  --explain    show what would be done and end
Without --cpu or --cuda: CUDA where nvidia-smi names a GPU that today's torch supports, else CPU.
The environment is .venv, or the conda/micromamba environment named gswa where that is the active one.
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" # Prefect reads its settings there
torch_index=https://download.pytorch.org/whl
micromamba_url=https://github.com/mamba-org/micromamba-releases/releases/latest/download
want=auto dev=no ask=no if_needed=no check=no explain=no

say() { printf '%s\n' "$*"; }
fail() { # reason, way out
    printf 'set-up: %s\n  %s\n' "$1" "$2" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --cpu) want=cpu ;;
    --cuda) want=cuda ;;
    --dev) dev=yes ;;
    --ask) ask=yes ;;
    --if-needed) if_needed=yes ;;
    --check) check=yes ;;
    --explain) explain=yes ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done

env_dir=$root/.venv
if [ "${CONDA_DEFAULT_ENV:-}" = gswa ] && [ -n "${CONDA_PREFIX:-}" ]; then
    env_dir=$CONDA_PREFIX
fi
python=$env_dir/bin/python
stamp=$env_dir/.gswa-setup

# -- what is there already ---------------------------------------------------------------------------------------------
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }

digest() { # of all that decides what the environment holds; $1 is its variant
    { printf '%s\n' "$root" "$env_dir" "$1" && cat "$root"/requirements/*.txt "$root/pyproject.toml" "$root/scripts/setup.sh"; } | sha256 | cut -d' ' -f1
}

complete() { # the variant chosen (none chosen yet: any), with the development tools where they are asked for
    [ -x "$python" ] && [ -r "$stamp" ] || return 1
    local has has_dev made_from
    read -r has has_dev made_from <"$stamp" || return 1
    [ "$has" = "${variant:-$has}" ] || return 1
    [ "$dev" = no ] || [ "$has_dev" = yes ] || return 1
    [ "$made_from" = "$(digest "$has")" ]
}

# -- which torch -------------------------------------------------------------------------------------------------------
# torch 2.13 is built for CUDA 12.6 (compute capability 5.0 to 9.0, driver 525 and newer) and for CUDA 13.0 (7.5 and
# newer, driver 580 and newer).
why_not_cuda=
cuda_variant() { # cu126 or cu130 into $variant, or the reason into $why_not_cuda
    local report driver lowest highest
    if ! command -v nvidia-smi >/dev/null; then
        why_not_cuda="no nvidia-smi, so no NVIDIA driver, on this machine" && return 1
    fi
    report=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null) || report=
    if [ -z "$report" ]; then
        why_not_cuda="nvidia-smi names no GPU (or its driver is older than 525)" && return 1
    fi
    driver=$(printf '%s\n' "$report" | head -n 1 | cut -d. -f1 | tr -cd 0-9)
    lowest=$(printf '%s\n' "$report" | cut -d, -f2 | tr -d ' .' | sort -n | head -n 1)
    highest=$(printf '%s\n' "$report" | cut -d, -f2 | tr -d ' .' | sort -n | tail -n 1)
    case $driver:$lowest:$highest in *[!0-9:]* | :* | *::* | *:) why_not_cuda="nvidia-smi's answer was not understood: $report" && return 1 ;; esac
    if [ "$driver" -ge 580 ] && [ "$lowest" -ge 75 ]; then
        variant=cu130
    elif [ "$driver" -ge 525 ] && [ "$lowest" -ge 50 ] && [ "$highest" -le 90 ]; then
        variant=cu126
    else
        why_not_cuda="no current torch supports driver $driver with compute capability $lowest to $highest (in tenths); driver 580 or newer helps most GPUs"
        return 1
    fi
}

choose_variant() {
    case $(uname -s):$(uname -m) in
    Darwin:arm64) variant=macos && return ;;
    Darwin:*) fail "Macs with Intel processors are not supported: torch is no longer built for them" "use a Mac with Apple silicon, or Linux" ;;
    Linux:x86_64 | Linux:aarch64) ;;
    *) fail "$(uname -s) on $(uname -m) is not supported" "use Linux (x86_64, aarch64) or a Mac with Apple silicon; on Windows, WSL2" ;;
    esac
    [ "$want" != cpu ] || { variant=cpu && return; }
    if cuda_variant; then return; fi
    [ "$want" != cuda ] || fail "$why_not_cuda" "bring the NVIDIA driver up to date, or set up without CUDA: make setup"
    ! command -v nvidia-smi >/dev/null || say "Note: training will run on the CPU: $why_not_cuda."
    variant=cpu
}

# -- which Python ------------------------------------------------------------------------------------------------------
suits() { # 3.11 to 3.13, with the modules that a Python compiled without system libraries lacks
    "$1" -c 'import sys, _ctypes, ssl, sqlite3, zlib, bz2, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() { # the first that suits into $base_python; micromamba brings its own where none does
    local candidate
    if [ -n "${GSWA_PYTHON:-}" ]; then
        suits "$GSWA_PYTHON" || fail "GSWA_PYTHON=$GSWA_PYTHON is no Python 3.11 to 3.13 with _ctypes, ssl, sqlite3, bz2 and venv" "name another, or unset it"
        base_python=$GSWA_PYTHON && return
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python \
        "$HOME"/.pyenv/versions/3.1[123]*/bin/python /usr/bin/python3.1[123] /opt/homebrew/bin/python3.1[123]; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        if suits "$candidate"; then base_python=$candidate && return; fi
    done
    base_python=micromamba
}

micromamba_env() { # Python 3.11 of conda-forge in .venv: complete, without root and without system libraries
    local tool arch
    tool=$(command -v micromamba || command -v mamba || command -v conda || true)
    if [ -z "$tool" ]; then
        case $(uname -s):$(uname -m) in Linux:x86_64) arch=linux-64 ;; Linux:*) arch=linux-aarch64 ;; *) arch=osx-arm64 ;; esac
        tool=$root/.micromamba/micromamba
        mkdir -p "$root/.micromamba"
        say "No usable Python 3.11 to 3.13 here: fetching micromamba into .micromamba/ (no root needed)"
        { curl -fsSL --connect-timeout 10 -o "$tool.part" "$micromamba_url/micromamba-$arch" 2>/dev/null ||
            wget -q -T 10 -O "$tool.part" "$micromamba_url/micromamba-$arch" 2>/dev/null; } ||
            fail "no Python 3.11 to 3.13 with _ctypes, ssl, sqlite3, bz2 and venv, and micromamba could not be fetched" \
                "install python3.11 and python3.11-venv, or name one: GSWA_PYTHON=/path/to/python make setup (INSTALL.md, 'Python')"
        chmod +x "$tool.part" && mv "$tool.part" "$tool"
    fi
    MAMBA_ROOT_PREFIX=$root/.micromamba "$tool" create -y -q -p "$env_dir" -c conda-forge python=3.11 pip ||
        fail "$tool could not make an environment" "see its message above; INSTALL.md, 'Python', has other ways"
}

make_env() {
    [ "$env_dir" = "$root/.venv" ] || { suits "$python" || fail "$env_dir holds no Python 3.11 to 3.13" "micromamba create -n gswa python=3.11 -y"; }
    if [ -x "$python" ] && suits "$python"; then return; fi
    if [ -e "$env_dir" ] && [ ! -e "$env_dir/.gswa-made" ] && [ ! -e "$env_dir/conda-meta" ]; then
        fail "$env_dir exists, was not made here and holds no working Python 3.11 to 3.13" "move it away: mv .venv .venv.old"
    fi
    if [ "$base_python" = micromamba ]; then
        micromamba_env # wants to make the folder itself
    else
        mkdir -p "$env_dir" && : >"$env_dir/.gswa-made"
        "$base_python" -m venv "$env_dir" || fail "$base_python could not make $env_dir" "see its message above"
    fi
}

# -- installing --------------------------------------------------------------------------------------------------------
answers() { "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)' "$1" >/dev/null 2>&1; }

pip_install() {
    local quiet=--quiet
    [ ! -t 1 ] || quiet=--progress-bar=on # gigabytes may come: show a person that something happens
    "$python" -m pip install --disable-pip-version-check "$quiet" "$@" || fail "pip could not install: $*" \
        "see its message above. No network? set PIP_INDEX_URL or a proxy. Then run this again: it goes on where it stopped"
}

install_torch() { # the right build first; the requirements then find their pin satisfied
    local version
    version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$root/requirements/torch.txt")
    [ "$variant" != macos ] || return 0
    if answers "$torch_index/$variant/torch/"; then
        pip_install --no-deps --index-url "$torch_index/$variant" "torch==$version+$variant"
    elif [ "$variant" = cu130 ]; then
        pip_install --no-deps "torch===$version" # the registry's own build is the CUDA 13.0 one; === keeps out a +cpu build
    elif [ "$variant" = cu126 ]; then
        fail "$torch_index/cu126 does not answer, and only it has the torch that this driver needs" \
            "allow that host, bring the driver to 580 or newer, or set up without CUDA: bash scripts/setup.sh --cpu"
    fi
}

require_space() { # GB of 2**30 bytes
    local needed=5 free
    case $variant in cu*) needed=12 ;; esac
    free=$(df -Pk "$root" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$needed" ] || fail "$free GB free at $root, and set-up needs $needed GB" "free some space, or move the project to a larger disk"
}

requirement_files() {
    case $variant in macos) printf '%s\n' macos-arm64 ;; cpu) printf '%s\n' linux-cpu ;; *) printf '%s\n' linux-cuda ;; esac
    [ "$dev" = no ] || printf '%s\n' dev
}

verify() {
    "$python" - "$variant" "$root"/requirements <<'PY' || fail "the environment is not right (above)" "run this again; if it stays so: rm -rf .venv and once more"
import importlib, importlib.metadata, logging, re, sys
from pathlib import Path

logging.disable(logging.WARNING)  # what libraries remark while they are imported

variant, folder = sys.argv[1], Path(sys.argv[2])
pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (folder / "common.txt").read_text() + (folder / "torch.txt").read_text(), re.M))
for module in "torch transformers peft accelerate prefect pypdfium2 docx matplotlib yaml ctypes sqlite3 gswa".split():
    importlib.import_module(module)
wrong = [f"{name} {found} in place of {pins[name]}" for name in ("torch", "transformers", "peft", "prefect", "fastapi", "SQLAlchemy")
         if (found := importlib.metadata.version(name)).split("+")[0] != pins[name]]
if wrong:
    sys.exit("set-up: " + "; ".join(wrong))
import torch

print(f"  Python {sys.version.split()[0]}, torch {torch.__version__}, prefect {pins['prefect']}")
if variant.startswith("cu"):
    if not torch.cuda.is_available():
        sys.exit(f"set-up: torch {torch.__version__} sees no GPU, though nvidia-smi does; without CUDA: bash scripts/setup.sh --cpu")
    print(f"  CUDA {torch.version.cuda}: {torch.cuda.get_device_name(0)}")
PY
}

# -- in order ----------------------------------------------------------------------------------------------------------
variant=
if [ "$check" = yes ]; then
    complete || fail "$env_dir is not complete" "make setup"
    variant=$(cut -d' ' -f1 "$stamp") && say "Environment $env_dir:" && verify && exit 0
fi
if [ "$if_needed" = yes ] && complete; then exit 0; fi
choose_variant
if [ "$explain" = no ] && complete; then
    say "Already set up: $variant in $env_dir (nothing changed)"
    exit 0
fi
if [ -r "$stamp" ] && [ "$dev" = no ]; then dev=$(cut -d' ' -f2 "$stamp"); fi # what was there stays there
base_python=$python
suits "$python" || find_python
say "GSWA set-up: $variant build of torch, Python from $base_python, environment $env_dir$([ "$dev" = no ] || printf ', with development tools')"
[ "$explain" = no ] || exit 0
if [ "$ask" = yes ] && [ -t 0 ]; then
    read -r -p "Go on? [Y/n] " reply
    case $reply in [nN]*) say "Nothing was changed." && exit 0 ;; esac
fi
require_space
make_env
say "Installing the pinned packages (some minutes the first time)"
install_torch
files=()
for name in $(requirement_files); do files+=(-r "$root/requirements/$name.txt"); done
pip_install "${files[@]}"
pip_install --no-deps --no-build-isolation -e "$root"
say "Checking"
verify
printf '%s %s %s\n' "$variant" "$dev" "$(digest "$variant")" >"$stamp.part" && mv "$stamp.part" "$stamp"
say "Set up: $env_dir. Next: make train-linux, or 'make help' for the rest."

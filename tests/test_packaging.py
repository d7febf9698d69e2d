"""What stands around the code agrees with itself: targets, pins, versions, deployments, and set-up's choice of torch."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gswa.config import RunRequest
from gswa.train import PREFECT

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
LATER = {"run"}  # targets of the guide whose feature does not exist yet: the writing page


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


def pins(file: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


def pinned_version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement}: not pinned"
    return specifier.version


@pytest.mark.parametrize("page", ["README.md", "INSTALL.md", "CONTRIBUTING.md", "data/corpus/raw/README.md", "tests/data/guide.md"])
def test_every_make_target_a_page_names_exists(page):
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", (ROOT / page).read_text(), re.M)) - LATER
    assert named and named <= make_targets()


def test_readme_opens_with_the_two_commands():
    code = (ROOT / "README.md").read_text().split("```")[1]
    assert re.findall(r"^make \S+", code, re.M) == ["make train-linux", "make test"]


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert make_targets() - {"ready", "ready-dev"} == set(re.findall(r"^  ([a-z][a-z-]*) ", shown, re.M))


def test_a_package_has_one_version_in_all_requirements():
    versions: dict[str, set[str]] = {}
    for file in REQUIREMENTS:
        for requirement in pins(file):
            versions.setdefault(canonicalize_name(requirement.name), set()).add(pinned_version(requirement))
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_every_pin_lies_in_the_range_of_pyproject():
    known = {canonicalize_name(pin.name): pinned_version(pin) for file in REQUIREMENTS for pin in pins(file)}
    extras = [line for name in ("torch", "cuda", "mlx", "dev") for line in PROJECT["optional-dependencies"][name]]
    for line in PROJECT["dependencies"] + extras:
        wanted = Requirement(line)
        if wanted.name != "gswa":
            assert wanted.specifier.contains(known[canonicalize_name(wanted.name)]), (
                f"{line}: {known[canonicalize_name(wanted.name)]} is pinned"
            )


def test_changelog_is_headed_by_the_version():
    assert re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == PROJECT["version"]


def test_deployments_start_the_flow_with_requests_it_accepts():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert [deployment["name"] for deployment in deployments] == ["train-linux", "train-linux-safe", "train-linux-full"]
    for deployment in deployments:
        file, function = deployment["entrypoint"].split(":")
        assert f"\ndef {function}(" in (ROOT / file).read_text()
        RunRequest.model_validate(deployment["parameters"]["request"])


# -- scripts/setup.sh --------------------------------------------------------------------------------------------------
def explain(folder: Path, nvidia_smi: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What set-up would do where nvidia-smi is this shell line."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    program.chmod(0o755)
    kept = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": os.environ.get("HOME", "/")}
    command = ["bash", str(ROOT / "scripts" / "setup.sh"), "--explain", *options]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="CUDA is on Linux only")
@pytest.mark.parametrize(
    ("gpus", "build"),
    [
        ("580.65.06, 9.0", "cu130"),
        ("595.10, 12.0", "cu130"),
        ("580.65.06, 7.0", "cu126"),  # Volta is not in CUDA 13
        ("535.183.01, 8.6", "cu126"),
        ("525.60.13, 8.9\\n525.60.13, 6.1", "cu126"),
        ("570.10, 12.0", "cpu"),  # Blackwell needs CUDA 13, so driver 580
        ("580.65.06, 6.1\\n580.65.06, 12.0", "cpu"),  # no build has both
        ("470.57.02, 8.6", "cpu"),
        ("[Not Supported]", "cpu"),
    ],
)
def test_setup_takes_the_torch_that_driver_and_gpus_support(tmp_path, gpus, build):
    shown = explain(tmp_path, f"printf '{gpus}\\n'")
    assert f"GSWA set-up: {build} build of torch" in shown.stdout
    asked = explain(tmp_path, f"printf '{gpus}\\n'", "--cuda")
    assert (asked.returncode == 0) == (build != "cpu")
    assert build != "cpu" or "make setup" in asked.stderr


def test_setup_without_a_gpu_takes_the_cpu_build(tmp_path):
    assert " build of torch, Python" in explain(tmp_path, "exit 9").stdout
    assert "cpu build" in explain(tmp_path, "echo 580.65.06, 9.0", "--cpu").stdout or os.uname().sysname != "Linux"


def test_setup_refuses_a_python_that_was_named_and_does_not_suit(tmp_path):
    refused = explain(tmp_path, "exit 9", GSWA_PYTHON="/bin/false", CONDA_DEFAULT_ENV="gswa", CONDA_PREFIX=str(tmp_path))
    assert refused.returncode == 1
    assert "GSWA_PYTHON=/bin/false" in refused.stderr


def test_outside_the_checkout_prefect_is_told_the_same():
    """Its settings in pyproject.toml are read in the checkout only: elsewhere the server had 20 seconds to start, and its telemetry."""
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["prefect"]["server"]
    assert PREFECT["PREFECT_SERVER_ANALYTICS_ENABLED"] == str(server["analytics_enabled"]).lower()
    assert PREFECT["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == str(server["ephemeral"]["startup_timeout_seconds"])

"""What this machine has, asked without importing torch. Readers are short; what they read goes to a pure `parse_*`."""

import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from gswa import cgroup
from gswa.cgroup import GB
from gswa.nvidia import Gpu, read_nvidia
from gswa.records import Record
from gswa.workspace import Workspace

STACK = (
    "gswa", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "safetensors", "mlx", "mlx-lm", "prefect",
)  # fmt: skip
CPU_FEATURES = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_tile"}
# Below this share, what other processes hold is the desktop and the driver: the guide's tables already allow for them.
OTHERS_SHARE = 0.1


class Cpu(Record):
    """`cores` are those this process may use, `features` the keys of CPU_FEATURES that it has."""

    model: str
    cores: int
    features: tuple[str, ...] = ()


class Memory(Record):
    """RAM in GB, as limited by the cgroup where `limited`."""

    total_gb: float
    available_gb: float
    limited: bool = False


class Hardware(Record):
    """`config/hardware_info.json`. `cuda` is the highest version the driver serves; `versions` lists what is installed."""

    schema_version: int = 1
    os: str
    python: str
    surroundings: str = ""
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    apple_chip: str | None = None
    cpu: Cpu
    memory: Memory
    disk_free_gb: float
    versions: dict[str, str] = Field(default_factory=dict)
    number_formats: dict[str, float] = Field(default_factory=dict, description="GFLOP/s measured by format; empty before it was measured")
    memory_limit_gb: float | None = None

    @property
    def cpu_only_torch(self) -> bool:
        """The installed torch was built without CUDA (its wheels say so in their version)."""
        return self.versions.get("torch", "").endswith("+cpu")

    @property
    def device(self) -> Literal["cuda", "metal", "cpu"]:
        """Where training can run: a GPU counts only where the installed torch can use it."""
        if self.gpus and not self.cpu_only_torch:
            return "cuda"
        return "metal" if self.apple_chip else "cpu"

    @property
    def compute_name(self) -> str:
        """What computes: the first GPU or the CPU."""
        return self.gpus[0].name if self.device == "cuda" else self.cpu.model

    @property
    def total_gb(self) -> float:
        """Memory of the first GPU, or RAM."""
        return self.gpus[0].total_gb if self.device == "cuda" else self.memory.total_gb

    @property
    def free_gb(self) -> float:
        return self.gpus[0].free_gb if self.device == "cuda" else self.memory.available_gb

    @property
    def crowded(self) -> bool:
        """Other processes hold more than a tenth."""
        return self.total_gb - self.free_gb > OTHERS_SHARE * self.total_gb

    @property
    def memory_gb(self) -> float:
        """What a profile is chosen by: the given limit, else the total, or what is free where others hold much of it."""
        if self.memory_limit_gb is not None:
            return self.memory_limit_gb
        return self.free_gb if self.crowded else self.total_gb


def probe(memory_limit_gb: float | None = None, folder: Path | None = None) -> Hardware:
    """This machine; disk space is that of `folder` (default: the project's). Never fails for want of a driver."""
    memory = read_memory()
    nvidia = read_nvidia(memory.total_gb, memory.available_gb)
    sysctl = read_sysctl()
    return Hardware(
        os=platform.platform(),
        python=platform.python_version(),
        surroundings=parse_surroundings(_text("/proc/version"), _text("/proc/1/cgroup"), _container_mark()),
        gpus=nvidia.gpus,
        driver=nvidia.driver,
        cuda=nvidia.cuda,
        apple_chip=parse_apple_chip(sysctl),
        cpu=read_cpu(sysctl),
        memory=memory,
        disk_free_gb=round(shutil.disk_usage(_existing(folder or Workspace().root)).free / GB, 2),
        versions=read_versions(),
        memory_limit_gb=memory_limit_gb,
    )


# -- CPU ---------------------------------------------------------------------------------------------------------------
def read_cpu(sysctl: Mapping[str, str]) -> Cpu:
    model, features = parse_cpuinfo(_text("/proc/cpuinfo"))
    model = sysctl.get("machdep.cpu.brand_string", model) or platform.processor() or platform.machine()
    return Cpu(model=model, cores=usable_cores(), features=features)


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model name ('' where the file has none, as on ARM) and features, of the first processor listed."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    flags = fields.get("flags", "").split()
    return fields.get("model name", ""), tuple(feature for feature, flag in CPU_FEATURES.items() if flag in flags)


def usable_cores() -> int:
    """Cores by affinity, and by the cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = cgroup.cpu_quotas(cgroup.folders("cpu"))
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


# -- memory ------------------------------------------------------------------------------------------------------------
def read_memory() -> Memory:
    if sys.platform == "darwin":
        total = int(read_sysctl().get("hw.memsize", "0")) / GB
        return Memory(total_gb=round(total, 2), available_gb=round(parse_vm_stat(_output("vm_stat")), 2))
    total, available = parse_meminfo(_text("/proc/meminfo"))
    return limited_memory(total, available, cgroup.memory_limits(cgroup.folders("memory")))


def parse_meminfo(text: str) -> tuple[float, float]:
    """Total and available GB of /proc/meminfo."""
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in text.splitlines()) if rest.strip()}
    total = kilobytes.get("MemTotal", 0)
    return total / 2**20, kilobytes.get("MemAvailable", kilobytes.get("MemFree", 0)) / 2**20


def limited_memory(total_gb: float, available_gb: float, groups: Iterable[cgroup.CgroupMemory]) -> Memory:
    """The tightest group counts; a limit above the machine's total is none."""
    binding = [group for group in groups if group.limit < total_gb]
    return Memory(
        total_gb=round(min([total_gb, *(group.limit for group in binding)]), 2),
        available_gb=round(max(0.0, min([available_gb, *(group.limit - group.used for group in binding)])), 2),
        limited=bool(binding),
    )


# -- Apple -------------------------------------------------------------------------------------------------------------
def read_sysctl() -> dict[str, str]:
    return parse_sysctl(_output("sysctl", "machdep.cpu.brand_string", "hw.memsize")) if sys.platform == "darwin" else {}


def parse_sysctl(text: str) -> dict[str, str]:
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines()) if value}


def parse_apple_chip(sysctl: Mapping[str, str]) -> str | None:
    """'Apple M2'; None on Intel, and under Rosetta ('VirtualApple'), where MLX does not run."""
    brand = sysctl.get("machdep.cpu.brand_string", "")
    return brand if brand.startswith("Apple") else None


def parse_vm_stat(text: str) -> float:
    """Available GB: free, speculative and inactive pages, of the size that the first line gives."""
    first, _, rest = text.partition("\n")
    size = next((int(word) for word in first.split() if word.isdigit()), 4096)
    pages = {name.strip(): value.strip(" .") for name, _, value in (line.partition(":") for line in rest.splitlines())}
    wanted = ("Pages free", "Pages speculative", "Pages inactive")
    return sum(int(pages[name]) for name in wanted if pages.get(name, "").isdigit()) * size / GB


# -- the rest ----------------------------------------------------------------------------------------------------------
def parse_surroundings(version: str, cgroup_of_init: str, marked: bool) -> str:
    """'WSL', 'container', both or ''. `marked`: a container engine left its file at the root."""
    wsl = "microsoft" in version.lower()
    container = marked or any(word in cgroup_of_init for word in ("docker", "kubepods", "libpod", "lxc", "containerd"))
    return ", ".join(name for name, found in (("WSL", wsl), ("container", container)) if found)


def read_versions() -> dict[str, str]:
    """Installed packages of STACK, from their metadata: nothing is imported."""
    installed = {}
    for package in STACK:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _container_mark() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _existing(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))


def _text(path: str) -> str:
    return cgroup.read_text(Path(path))


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""

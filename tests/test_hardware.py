"""What the probe makes of captured machines. No test needs a GPU, a Mac or a container."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from gswa import cgroup, nvidia
from gswa.hardware import (
    Cpu,
    Hardware,
    Memory,
    limited_memory,
    parse_apple_chip,
    parse_cpuinfo,
    parse_meminfo,
    parse_surroundings,
    parse_sysctl,
    parse_vm_stat,
    probe,
)
from gswa.nvidia import Gpu

GB = 2**30
XEON = """processor	: 0
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags		: fpu sse4_2 avx fma avx2 bmi2 avx512f avx512dq avx512bw avx512vl avx_vnni avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8
bogomips	: 5400.00

processor	: 1
model name	: another
flags		: fpu
"""
GRAVITON = """processor	: 0
BogoMIPS	: 2100.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm sve bf16
CPU implementer	: 0x41
"""
MEMINFO = """MemTotal:       24684096 kB
MemFree:        23950896 kB
MemAvailable:   24268064 kB
HugePages_Total:       0
"""
MACS = [("Apple M1", 8), ("Apple M2 Max", 32), ("Apple M3 Pro", 18), ("Apple M4 Max", 128)]
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               65536.
Pages active:                            500000.
Pages inactive:                          196608.
Pages speculative:                        65536.
Pages wired down:                        150000.
"""
UNLIMITED = "9223372036854771712\n"
CARD = Gpu(name="NVIDIA RTX A5000", total_gb=23.99, free_gb=23.6, compute_capability=(8, 6), uuid="GPU-5f1e")


def machine(**changes: Any) -> Hardware:
    fields = {
        "os": "Linux",
        "python": "3.12.1",
        "cpu": Cpu(model="x", cores=2),
        "memory": Memory(total_gb=32, available_gb=31),
        "disk_free_gb": 9,
    }
    return Hardware(**{**fields, **changes})


# -- CPU ---------------------------------------------------------------------------------------------------------------
def test_cpu_features_are_those_of_the_first_processor() -> None:
    assert parse_cpuinfo(XEON) == ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", ("AVX2", "AVX-512", "AVX512-BF16", "AMX"))


def test_a_cpu_without_a_model_name_is_no_error() -> None:
    assert parse_cpuinfo(GRAVITON) == ("", ())


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("-1\n 100000\n", None), ("200000\n 100000\n", 2.0), (" ", None), ("5 0", None)],
)
def test_a_quota_is_read_in_both_versions(text: str, cores: float | None) -> None:
    assert cgroup.parse_cpu_quota(text) == cores


# -- memory ------------------------------------------------------------------------------------------------------------
def test_memory_counts_in_units_of_2_to_the_30() -> None:
    total, available = parse_meminfo(MEMINFO)
    assert (round(total, 2), round(available, 2)) == (23.54, 23.14)


def test_an_old_kernel_has_free_memory_only() -> None:
    assert parse_meminfo("MemTotal: 2097152 kB\nMemFree: 1048576 kB\n") == (2.0, 1.0)


def test_version_1_is_preferred_where_it_holds_the_controller() -> None:
    membership = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/init.scope\n"
    root = Path("/sys/fs/cgroup/memory")
    assert cgroup.parse_membership(membership, "memory") == [root / "docker/abc", root / "docker", root]
    assert cgroup.parse_membership(membership, "cpu")[-1] == Path("/sys/fs/cgroup/cpu")


def test_version_2_has_one_tree_for_all_controllers() -> None:
    folders = cgroup.parse_membership("0::/user.slice/session.scope\n", "memory")
    assert [str(folder) for folder in folders] == [
        "/sys/fs/cgroup/user.slice/session.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup",
    ]  # fmt: skip


@pytest.mark.parametrize("membership", ["", "0::/\n", "0::/../../outside\n"])
def test_without_a_path_of_its_own_the_mount_is_asked(membership: str) -> None:
    assert cgroup.parse_membership(membership, "memory") == [Path("/sys/fs/cgroup")]


def test_a_group_that_says_max_has_no_limit() -> None:
    assert cgroup.parse_memory("max\n", "123\n", "") is None


@pytest.mark.parametrize(
    ("names", "cache"),
    [(("memory.max", "memory.current"), "inactive_file"), (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file")],
)
def test_page_cache_does_not_count_as_used(tmp_path: Path, names: tuple[str, str], cache: str) -> None:
    (tmp_path / names[0]).write_text(f"{8 * GB}\n")
    (tmp_path / names[1]).write_text(f"{5 * GB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\n{cache} {3 * GB}\n")
    assert cgroup.memory_limits([tmp_path / "absent", tmp_path]) == [cgroup.CgroupMemory(limit=8, used=2)]


def test_the_tightest_group_limits_memory() -> None:
    groups = [cgroup.CgroupMemory(limit=8, used=1), cgroup.CgroupMemory(limit=4, used=3)]
    assert limited_memory(32, 30, groups) == Memory(total_gb=4, available_gb=1, limited=True)


def test_a_limit_above_the_machine_is_none() -> None:
    unlimited = cgroup.parse_memory(UNLIMITED, "0", "")
    assert unlimited is not None
    assert limited_memory(32, 30, [unlimited]) == Memory(total_gb=32, available_gb=30)


def test_a_group_never_makes_more_memory_available_than_the_machine_has() -> None:
    assert limited_memory(32, 2, [cgroup.CgroupMemory(limit=16, used=1)]).available_gb == 2


# -- Apple -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("chip", "gb"), MACS)
def test_an_apple_chip_is_known_by_its_brand(chip: str, gb: int) -> None:
    said = parse_sysctl(f"machdep.cpu.brand_string: {chip}\nhw.memsize: {gb * GB}\n")
    assert (parse_apple_chip(said), said["hw.memsize"]) == (chip, str(gb * GB))


@pytest.mark.parametrize("brand", ["Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "VirtualApple @ 2.50GHz processor"])
def test_intel_and_rosetta_are_no_apple_chip(brand: str) -> None:
    assert parse_apple_chip({"machdep.cpu.brand_string": brand}) is None


def test_pages_of_a_mac_have_the_size_that_vm_stat_says() -> None:
    assert parse_vm_stat(VM_STAT) == 5.0


# -- NVIDIA ------------------------------------------------------------------------------------------------------------
class NotSupported(Exception):
    pass


class Card(NamedTuple):
    """What NVML answers for one card: MiB, None for a card that has no memory of its own; the devices that MIG cut it into."""

    name: str
    total: int | None
    free: int | None
    capability: tuple[int, int] = (8, 9)
    uuid: str = "GPU-0abc"
    mig: "tuple[Card | None, ...] | None" = None


RTX_3060 = Card("NVIDIA GeForce RTX 3060", 12288, 11909, (8, 6))
RTX_4090 = Card("NVIDIA GeForce RTX 4090", 24564, 23800, (8, 9))
H100 = Card("NVIDIA H100 80GB HBM3", 81559, 81089, (9, 0))
GB10 = Card("NVIDIA GB10", None, None, (12, 1))
SLICES = (
    Card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20096, 20082, (0, 0), "MIG-7f1c"),
    None,
    Card("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864, 4857, (0, 0), "MIG-91d0"),
)
A100_MIG = Card("NVIDIA A100-SXM4-40GB", 40960, 40327, (8, 0), "GPU-5d5b", SLICES)


class Driver:
    """NVML's binding, answering for these cards."""

    NVMLError = Exception
    NVMLError_NotSupported = NotSupported

    def __init__(self, *cards: Card) -> None:
        self.cards = cards

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        if self.cards[index].name == "lost":
            raise RuntimeError("GPU is lost")
        return self.cards[index]

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        if card.capability < (8, 0):
            raise NotSupported
        return [int(card.mig is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return len(card.mig or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:
        device = (card.mig or ())[index]
        if device is None:
            raise RuntimeError("Not Found")
        return device

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:
        if card.total is None or card.free is None:
            raise NotSupported
        return SimpleNamespace(total=card.total * 2**20, free=card.free * 2**20)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.10"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12080


class NoDriver(Driver):
    def nvmlInit(self) -> None:
        raise RuntimeError("NVML Shared Library Not Found")


@pytest.mark.parametrize(
    ("card", "total", "free"), [(RTX_3060, 12.0, 11.63), (RTX_4090, 23.99, 23.24), (H100, 79.65, 79.19), (GB10, 119.7, 110.2)]
)
def test_a_card_is_described_in_gb_with_driver_and_cuda(card: Card, total: float, free: float) -> None:
    answer = nvidia.ask_nvml(Driver(card), 119.7, 110.2)
    described = Gpu(
        name=card.name, total_gb=total, free_gb=free, compute_capability=card.capability, uuid="GPU-0abc", unified=card.total is None
    )
    assert answer.gpus == (described,)
    assert (answer.driver, answer.cuda) == ("570.86.10", "12.8")


def test_the_double_has_only_what_the_binding_has() -> None:
    binding = pytest.importorskip("pynvml")
    assert [name for name in dir(Driver) if name.startswith(("nvml", "NVML")) and not hasattr(binding, name)] == []


def test_no_driver_is_no_gpu() -> None:
    assert nvidia.ask_nvml(NoDriver(), 64, 60) == nvidia.Nvidia()


def test_a_card_that_shares_memory_has_the_machines() -> None:
    (gpu,) = nvidia.ask_nvml(Driver(GB10), 119.7, 110.2).gpus
    assert (gpu.total_gb, gpu.free_gb, gpu.unified) == (119.7, 110.2, True)


def test_of_a_card_that_mig_cuts_up_the_first_part_is_the_device() -> None:
    (gpu,) = nvidia.ask_nvml(Driver(A100_MIG), 64, 60).gpus
    assert (gpu.name, gpu.total_gb, gpu.compute_capability) == ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19.62, (8, 0))


def test_a_card_that_mig_cut_into_nothing_is_no_device() -> None:
    assert nvidia.ask_nvml(Driver(A100_MIG._replace(mig=(None, None)), RTX_4090), 64, 60).gpus[0].name == RTX_4090.name


@pytest.mark.parametrize(("setting", "uuids"), [("MIG-91d0", "MIG-91d0"), ("0", "MIG-7f1c"), ("1", "GPU-0abc"), ("1,0", "MIG-7f1c")])
def test_a_process_sees_one_part_of_a_card_and_no_whole_card_beside_it(setting: str, uuids: str) -> None:
    answer = nvidia.ask_nvml(Driver(A100_MIG, RTX_4090), 64, 60, visible=setting)
    assert [gpu.uuid for gpu in answer.gpus] == [uuids]


def test_a_card_that_does_not_answer_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    answer = nvidia.ask_nvml(Driver(Card("lost", 8192, 8192), Card("NVIDIA A40", 46068, 46000)), 64, 60)
    assert [gpu.name for gpu in answer.gpus] == ["NVIDIA A40"]
    assert "GPU 0 does not answer" in caplog.text


@pytest.mark.parametrize(
    ("setting", "names"),
    [(None, "abc"), ("", ""), ("-1", ""), ("2,0", "ca"), ("1,7,0", "b"), ("GPU-2", "c"), ("GPU-", ""), ("MIG-1c2d", "")],
)
def test_visible_devices_are_cudas(setting: str | None, names: str) -> None:
    cards = [[CARD.model_copy(update={"name": name, "uuid": f"GPU-{number}"})] for number, name in enumerate("abc")]
    assert "".join(gpu.name for gpu in nvidia.visible_gpus(cards, setting)) == names


# -- surroundings ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("version", "cgroup_of_init", "marked", "said"),
    [
        ("Linux version 6.8.0-45-generic", "0::/init.scope", False, ""),
        ("Linux version 5.15.153.1-microsoft-standard-WSL2", "0::/", False, "WSL"),
        ("Linux version 6.8.0", "0::/kubepods/burstable/pod1", False, "container"),
        ("Linux version 5.15.153.1-microsoft-standard-WSL2", "0::/", True, "WSL, container"),
    ],
)
def test_surroundings_are_named(version: str, cgroup_of_init: str, marked: bool, said: str) -> None:
    assert parse_surroundings(version, cgroup_of_init, marked) == said


# -- what follows ------------------------------------------------------------------------------------------------------
def test_the_device_is_the_best_there_is() -> None:
    assert machine().device == "cpu"
    assert machine(apple_chip="Apple M1").device == "metal"
    assert machine(gpus=(CARD,)).device == "cuda"


def test_a_gpu_does_not_count_where_torch_has_no_cuda() -> None:
    assert machine(gpus=(CARD,), versions={"torch": "2.13.0+cpu"}).device == "cpu"
    assert machine(gpus=(CARD,), versions={"torch": "2.13.0+cu126"}).device == "cuda"


def test_memory_is_the_first_gpus_or_the_machines() -> None:
    assert machine(gpus=(CARD, CARD.model_copy(update={"total_gb": 80.0}))).memory_gb == 23.99
    assert machine().memory_gb == 32


@pytest.mark.parametrize(("free", "expected"), [(22.0, 24.0), (21.6, 24.0), (21.5, 21.5), (3.0, 3.0)])
def test_free_memory_counts_where_others_hold_more_than_a_tenth(free: float, expected: float) -> None:
    assert machine(gpus=(CARD.model_copy(update={"total_gb": 24.0, "free_gb": free}),)).memory_gb == expected


def test_a_memory_limit_beats_total_and_free() -> None:
    assert machine(gpus=(CARD.model_copy(update={"free_gb": 3.0}),), memory_limit_gb=8).memory_gb == 8


# -- this machine ------------------------------------------------------------------------------------------------------
def test_the_probe_survives_json(tmp_path: Path) -> None:
    hardware = probe(memory_limit_gb=4, folder=tmp_path / "not" / "there")
    assert Hardware.model_validate(json.loads(json.dumps(hardware.model_dump(mode="json")))) == hardware
    assert hardware.memory_gb == 4
    assert hardware.cpu.cores >= 1
    assert 0 < hardware.memory.available_gb <= hardware.memory.total_gb
    assert hardware.disk_free_gb > 0


def test_the_probe_imports_nothing_heavy() -> None:
    heavy = {"torch", "mlx", "prefect", "transformers"}
    code = f"import sys; from gswa.hardware import probe; probe(); print(*sorted(set(sys.modules) & {heavy}))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert ended.stdout.strip() == ""

"""The 4-bit base that is kept: the same weights, found again, and another one for other weights or settings."""

import os
import shutil
from pathlib import Path

import pytest
from small_job import make_job

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from bitsandbytes.cuda_specs import get_compute_capabilities  # noqa: E402  (where torch is absent the module is skipped above)

from gswa.backends.child import run_child  # noqa: E402
from gswa.backends.preload import ANEW, cuda_untouched  # noqa: E402
from gswa.backends.torch.model import load_base  # noqa: E402
from gswa.basemodel import BUILTIN_FOLDER  # noqa: E402
from gswa.config import RunConfig  # noqa: E402
from gswa.dataset import Tokenizer  # noqa: E402
from gswa.nvidia import Gpu  # noqa: E402
from gswa.rundir import RunDir  # noqa: E402
from gswa.workspace import cache  # noqa: E402

pytestmark = pytest.mark.backend
CONFIG = RunConfig(quantization="4bit")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(BUILTIN_FOLDER, tmp_path / "base"))


def places() -> list[str]:
    return sorted(path.name for path in (cache() / "quantised").iterdir())


def test_a_base_is_quantised_once_and_read_back_the_same(model: Path) -> None:
    first = load_base(str(model), CONFIG)
    (place,) = places()
    before = {file.name: file.stat().st_mtime_ns for file in (cache() / "quantised" / place).iterdir()}
    again = load_base(str(model), CONFIG)
    assert {file.name: file.stat().st_mtime_ns for file in (cache() / "quantised" / place).iterdir()} == before
    ids = torch.arange(64)[None]
    with torch.no_grad():
        assert torch.equal(first(ids).logits, again(ids).logits)
    assert again.name_or_path == again.config._name_or_path == str(model)


def test_other_weights_and_other_settings_have_their_own_place(model: Path) -> None:
    load_base(str(model), CONFIG)
    load_base(str(model), CONFIG.replace(number_format="bf16"))
    assert len(places()) == 2
    os.utime(model / "model.safetensors", (1, 1))
    load_base(str(model), CONFIG)
    assert len(places()) == 3


def test_a_cache_that_cannot_be_written_only_costs_time(model: Path) -> None:
    cache().parent.mkdir()
    cache().write_text("a file in its place")
    assert load_base(str(model), CONFIG).model is not None


def test_bitsandbytes_asks_nothing_of_cuda_while_it_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had CUDA started in the server, so that no child could use the card. A torch for the CPU raises where that is tried."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpus = [Gpu(name="a card", total_gb=8, free_gb=8, compute_capability=capability) for capability in ((8, 9), (7, 5))]
    own = torch.cuda.get_device_capability
    with cuda_untouched(gpus):
        assert torch.cuda.is_available()
        assert get_compute_capabilities() == [(7, 5), (8, 9)]
        named = (None, 0, "cuda", torch.device("cuda"), 1, "cuda:1", torch.device("cuda:1"))
        assert [torch.cuda.get_device_capability(device) for device in named] == [(8, 9)] * 4 + [(7, 5)] * 3
    assert torch.cuda.get_device_capability is own


@pytest.mark.gpu
def test_a_4_bit_base_trains_on_a_card(tokenizer: Tokenizer, tmp_path: Path) -> None:
    job = make_job(tmp_path, tokenizer, device="cuda", number_format="bf16", quantization="4bit")
    run_child(job)
    assert len(RunDir(job.run).steps()) == 6
    assert ANEW not in RunDir(job.run).output_log.read_text(encoding="utf-8")

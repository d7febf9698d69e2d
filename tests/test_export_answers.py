"""The exported files at work, against transformers and PEFT."""

from pathlib import Path

import pytest
from small_base import make_base, make_run

from gswa.export import export

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_exported_files_answer_as_what_was_trained(tmp_path: Path, kind: str) -> None:
    report = export(make_run(tmp_path, make_base(tmp_path / "base", kind)))
    assert report.verified
    assert any("prompt tokens as the base's tokenizer" in line for line in report.checked)
    assert any("same greedy answer as transformers and PEFT, computed from the GGUF files: 24 tokens" in line for line in report.checked)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers by the old name
def test_the_merged_model_computes_what_base_and_adapter_compute(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = make_base(tmp_path / "base")
    run = make_run(tmp_path, folder)
    export(run, "merged")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(2, 60)[None]
    with torch.no_grad():
        untuned = base(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(run.merged, dtype=torch.float32)(input_ids=ids).logits
        beside = PeftModel.from_pretrained(base, str(run.adapters)).eval()(input_ids=ids).logits
    assert (merged - beside).abs().max() < 1e-3
    assert (untuned - beside).abs().max() > 0.1

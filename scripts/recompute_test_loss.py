"""The held-out loss of a run's adapter, by transformers and PEFT alone: python scripts/recompute_test_loss.py runs/<id>"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

run = Path(sys.argv[1])
settled = json.loads((run / "config" / "run_config.json").read_text())["settled"]
base = sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parents[1] / "gswa" / "data" / settled["model_id"]
dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settled["number_format"]]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), run / "adapters").eval()


def nats_per_token() -> float:
    total = tokens = 0
    for line in (run / "data" / str(settled["max_seq_length"]) / "test.jsonl").read_text().splitlines():
        chat = json.loads(line)["messages"]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        prompt = len(tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=False))
        answer = torch.tensor([ids[: len(ids) - len(tokenizer("\n", add_special_tokens=False)["input_ids"])]])
        labels = torch.cat([torch.full((1, prompt), -100), answer[:, prompt:]], dim=1)
        with torch.no_grad():
            total += float(model(input_ids=answer, labels=labels).loss) * (count := answer.shape[1] - prompt)
        tokens += count
    return total / tokens


with model.disable_adapter():
    print(f"base  {nats_per_token():.4f}")
print(f"tuned {nats_per_token():.4f}")

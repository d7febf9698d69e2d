"""`python -m gswa.export.reference BASE PEFT TOKENS`: the prompt's tokens and greedy answer by transformers + PEFT, as one line of JSON."""

import json
import sys
from pathlib import Path
from typing import Any

from gswa.dataset import load_tokenizer

QUESTION = "Rewrite: the 3.5 mM NaCl solution wasn't stable at 42 °C (n = 12); it's naïve!\n\nNext   line."


def answer(base: Path, peft: Path, tokens: int) -> dict[str, Any]:
    """In fp32 on the CPU; `margins` as in `gswa.export.replay.Reference`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(base)
    prompt = str(tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True))
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    model = PeftModel.from_pretrained(loaded, str(peft)).eval()
    ids, margins = list(prompt_ids), []
    with torch.no_grad():
        for _ in range(tokens):
            best = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
            margins.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
    return {"prompt": prompt, "prompt_ids": prompt_ids, "answer": ids[len(prompt_ids) :], "margins": margins}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))) + "\n")

"""The trainers that GSWA is compared with: what they are installed from, and how each is asked for the same run.

Each goes through its own front door, with its own batching, rendering and loss; where it cannot do what is asked, it does
what it does: TRL, torchtune and litgpt cut rows at the limit, LLaMA-Factory cuts prompt and answer, axolotl leaves long rows out,
autotrain packs rows into one another and learns prompts too, litgpt leaves the system message out.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"


class Job(NamedTuple):
    """One run. `format` is fp32 or bf16; files are made below `work`."""

    model: Path
    data: Path
    work: Path
    steps: int = 60
    batch: int = 4
    limit: int = 512
    learning_rate: float = 1e-4
    seed: int = 42
    format: str = "fp32"


class Run(NamedTuple):
    """A command, more of its environment, the id it pads with where that is not the model's, and where the adapter will lie."""

    command: list[str]
    adapter: Path
    environment: dict[str, str] = {}  # noqa: RUF012  (never written to)
    pad: int | None = None


class Peer(NamedTuple):
    """`without`: packages that come along as CUDA builds and do not load beside torch's CPU build."""

    packages: list[str]
    run: Callable[[Job, Path], Run]
    without: tuple[str, ...] = ()


def _yaml(job: Job, name: str, settings: dict[str, object]) -> Path:
    """JSON is YAML."""
    file = job.work / name
    file.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return file


def _chats(job: Job, split: str = "train") -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in (job.data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


# -- TRL -------------------------------------------------------------------------------------------------------------------
TRL = """
import json, sys
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
job = json.load(open(sys.argv[1]))
rows = load_dataset("json", data_files=job["data"] + "/train.jsonl", split="train")
rows = rows.map(lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns=["messages"])
bf16 = job["format"] == "bf16"
config = SFTConfig(output_dir=job["work"] + "/out", max_length=job["limit"], per_device_train_batch_size=job["batch"],
                   max_steps=job["steps"], gradient_accumulation_steps=1, learning_rate=job["learning_rate"], bf16=bf16, fp16=False,
                   lr_scheduler_type="constant", warmup_steps=0, gradient_checkpointing=False, use_cpu=True, packing=False,
                   logging_steps=1, report_to="none", save_strategy="no", seed=job["seed"], dataloader_num_workers=0,
                   model_init_kwargs={"dtype": "bfloat16" if bf16 else "float32"})
lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
trainer = SFTTrainer(model=job["model"], args=config, train_dataset=rows, peft_config=lora)
trainer.train()
trainer.save_model(job["work"] + "/adapter")
"""


def trl(job: Job, python: Path) -> Run:
    script = job.work / "train.py"
    script.write_text(TRL, encoding="utf-8")
    return Run([str(python), str(script), str(_yaml(job, "job.json", _plain(job)))], job.work / "adapter")


def _plain(job: Job) -> dict[str, object]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in job._asdict().items()}


# -- LLaMA-Factory ---------------------------------------------------------------------------------------------------------
def llamafactory(job: Job, python: Path) -> Run:
    data = job.work / "data"
    data.mkdir()
    shutil.copy(job.data / "train.jsonl", data)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    own = {"file_name": "train.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (data / "dataset_info.json").write_text(json.dumps({"chats": own}), encoding="utf-8")
    settings = {
        "model_name_or_path": str(job.model), "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16,
        "lora_dropout": 0.0, "lora_target": "all", "dataset_dir": str(data), "dataset": "chats", "template": "chatml",
        "cutoff_len": job.limit,
        "preprocessing_num_workers": 1, "dataloader_num_workers": 0, "output_dir": str(job.work / "adapter"), "overwrite_output_dir": True,
        "per_device_train_batch_size": job.batch, "gradient_accumulation_steps": 1, "max_steps": job.steps, "warmup_steps": 0,
        "learning_rate": job.learning_rate, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "plot_loss": False,
        "bf16": job.format == "bf16", "fp16": False, "use_cpu": True, "disable_gradient_checkpointing": True, "flash_attn": "sdpa",
        "report_to": "none", "seed": job.seed,
    }  # fmt: skip
    command = [str(python.parent / "llamafactory-cli"), "train", str(_yaml(job, "settings.yaml", settings))]
    return Run(command, job.work / "adapter", {"PYTHONPATH": str(HERE / "stubs")})


# -- axolotl ---------------------------------------------------------------------------------------------------------------
def axolotl(job: Job, python: Path) -> Run:
    rows = {"path": str(job.data / "train.jsonl"), "ds_type": "json", "type": "chat_template", "field_messages": "messages"}
    settings = {
        "base_model": str(job.model), "chat_template": "tokenizer_default", "datasets": [{**rows, "roles_to_train": ["assistant"]}],
        "dataset_prepared_path": str(job.work / "prepared"), "dataset_num_proc": 1, "val_set_size": 0,
        "output_dir": str(job.work / "adapter"),
        "adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_target_linear": True, "sequence_len": job.limit,
        "sample_packing": False, "pad_to_sequence_len": False, "micro_batch_size": job.batch, "gradient_accumulation_steps": 1,
        "max_steps": job.steps, "num_epochs": 1, "learning_rate": job.learning_rate, "lr_scheduler": "constant", "warmup_steps": 0,
        "optimizer": "adamw_torch", "weight_decay": 0.0, "bf16": job.format == "bf16", "fp16": False, "tf32": False,
        "gradient_checkpointing": False, "flash_attention": False, "sdp_attention": True, "lora_mlp_kernel": False,
        "lora_qkv_kernel": False, "lora_o_kernel": False, "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "seed": job.seed,
    }  # fmt: skip
    command = [str(python.parent / "axolotl"), "train", str(_yaml(job, "settings.yml", settings)), "--launcher", "python"]
    return Run(command, job.work / "adapter", {"AXOLOTL_DO_NOT_TRACK": "1", "AXOLOTL_NCCL_TIMEOUT": "10"})


# -- torchtune -------------------------------------------------------------------------------------------------------------
def torchtune(job: Job, python: Path) -> Run:
    c = json.loads((job.model / "config.json").read_text(encoding="utf-8"))
    tokenizer = {
        "_component_": "torchtune.models.qwen2.qwen2_tokenizer", "path": str(job.model / "vocab.json"),
        "merges_file": str(job.model / "merges.txt"), "special_tokens_path": str(job.model / "tokenizer.json"), "max_seq_len": job.limit,
    }  # fmt: skip
    model = {
        "_component_": "torchtune.models.llama3_1.lora_llama3_1", "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
        "apply_lora_to_mlp": True, "apply_lora_to_output": False, "vocab_size": c["vocab_size"], "num_layers": c["num_hidden_layers"],
        "num_heads": c["num_attention_heads"], "num_kv_heads": c["num_key_value_heads"], "embed_dim": c["hidden_size"],
        "intermediate_dim": c["intermediate_size"], "max_seq_len": c["max_position_embeddings"], "rope_base": int(c["rope_theta"]),
        "scale_factor": 1, "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0,
    }  # fmt: skip
    out = str(job.work / "out")
    checkpointer = {
        "_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": str(job.model),
        "checkpoint_files": ["model.safetensors"],
        "recipe_checkpoint": None, "output_dir": out, "model_type": "LLAMA3",
    }  # fmt: skip
    rows = {
        "_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": str(job.data / "train.jsonl"), "packed": False,
        "conversation_column": "messages", "conversation_style": "openai", "train_on_input": False, "split": "train",
    }  # fmt: skip
    schedule = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    settings = {
        "output_dir": out, "tokenizer": tokenizer, "model": model, "checkpointer": checkpointer, "dataset": rows,
        "save_adapter_weights_only": True, "resume_from_checkpoint": False, "seed": job.seed, "shuffle": True, "batch_size": job.batch,
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": False, "weight_decay": 0.0, "lr": job.learning_rate},
        "lr_scheduler": {"_component_": schedule, "num_warmup_steps": 0, "num_cycles": 0.0},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"}, "epochs": 1, "max_steps_per_epoch": job.steps,
        "gradient_accumulation_steps": 1, "clip_grad_norm": 1.0, "compile": False, "log_every_n_steps": 1, "log_peak_memory_stats": False,
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": str(job.work / "logs")},
        "device": "cpu", "dtype": job.format, "enable_activation_checkpointing": False, "enable_activation_offloading": False,
        "profiler": {"_component_": "torchtune.training.setup_torch_profiler", "enabled": False},
    }  # fmt: skip
    file = str(_yaml(job, "settings.yaml", settings))
    return Run([str(python.parent / "tune"), "run", "lora_finetune_single_device", "--config", file], job.work / "out" / "epoch_0")


# -- litgpt ----------------------------------------------------------------------------------------------------------------
CONVERT = """
import json, shutil, sys, torch
from pathlib import Path
from litgpt.config import Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import save_config
from safetensors.torch import load_file
source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True)
c = json.load(open(source / "config.json"))
config = Config(name="model", hf_config={}, block_size=c["max_position_embeddings"], vocab_size=c["vocab_size"],
                padded_vocab_size=c["vocab_size"], n_layer=c["num_hidden_layers"], n_head=c["num_attention_heads"],
                n_embd=c["hidden_size"], n_query_groups=c["num_key_value_heads"], head_size=c["hidden_size"] // c["num_attention_heads"],
                rotary_percentage=1.0, parallel_residual=False, bias=False,
                norm_class_name="RMSNorm", norm_eps=c["rms_norm_eps"], mlp_class_name="LLaMAMLP", intermediate_size=c["intermediate_size"],
                rope_base=int(c["rope_theta"]))
weights = {}
copy_weights_hf_llama(config, {}, weights, load_file(source / "model.safetensors"))
torch.save(weights, target / "lit_model.pth")
save_config(config, target)
for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
    shutil.copy(source / name, target / name)
"""


def litgpt(job: Job, python: Path) -> Run:
    """Turning the model into its own format is preparation, and is not timed."""
    script, checkpoint, data = job.work / "convert.py", job.work / "checkpoint", job.work / "data"
    script.write_text(CONVERT, encoding="utf-8")
    subprocess.run([python, script, job.model, checkpoint], check=True, capture_output=True)
    data.mkdir()
    for split, name in (("train", "train"), ("valid", "val")):
        rows = [{"instruction": chat[-2]["content"], "input": "", "output": chat[-1]["content"]} for chat in _chats(job, split)]
        (data / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": job.learning_rate, "weight_decay": 0.0}}
    options: dict[str, object] = {
        "out_dir": job.work / "out", "precision": {"fp32": "32-true", "bf16": "bf16-true"}[job.format], "data": "JSON", "seed": job.seed,
        "optimizer": json.dumps(adamw), **{f"lora_{part}": "true" for part in ("query", "key", "value", "projection", "mlp")},
        "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "data.json_path": data, "data.mask_prompt": "true",
        "data.prompt_style": "qwen2.5", "data.num_workers": 0, "train.max_steps": job.steps, "train.global_batch_size": job.batch,
        "train.micro_batch_size": job.batch, "train.max_seq_length": job.limit, "train.lr_warmup_steps": 1,
        "train.min_lr": job.learning_rate, "train.epochs": 1, "train.log_interval": 1, "eval.interval": 100_000, "eval.max_iters": 1,
        "eval.max_new_tokens": 1, "eval.initial_validation": "false", "eval.final_validation": "false",
    }  # fmt: skip
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return Run([str(python.parent / "litgpt"), "finetune_lora", str(checkpoint), *given], job.work / "out" / "final", pad=0)


# -- autotrain -------------------------------------------------------------------------------------------------------------
def autotrain(job: Job, python: Path) -> Run:
    """It knows no number of steps: it gets one epoch over as many chats as make so many full blocks."""
    data = job.work / "data"
    data.mkdir()
    wanted, rows = job.steps * job.batch * job.limit, []
    for chat in _chats(job):
        wanted -= sum(len(turn["content"]) for turn in chat) // 4
        rows.append(json.dumps({"text": json.dumps(chat)}) + "\n")
        if wanted < 0:
            break
    (data / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    options: dict[str, object] = {
        "backend": "local", "project-name": "adapter", "train-split": "train", "text-column": "text", "chat-template": "tokenizer",
        "trainer": "sft", "lora-r": 8, "lora-alpha": 16, "lora-dropout": 0.0, "target-modules": "all-linear", "epochs": 1,
        "gradient-accumulation": 1, "warmup-ratio": 0, "scheduler": "constant", "weight-decay": 0, "logging-steps": 1, "log": "none",
        "quantization": "none", "model": job.model, "data-path": data, "block-size": job.limit, "model-max-length": job.limit,
        "batch-size": job.batch, "lr": job.learning_rate, "seed": job.seed,
        **({"mixed-precision": "bf16"} if job.format == "bf16" else {}),
    }  # fmt: skip
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [str(python.parent / "autotrain"), "llm", "--train", "--peft", "--disable-gradient-checkpointing", *given]
    return Run(command, job.work / "adapter", {"PATH": f"{python.parent}:/usr/bin:/bin"})


PEERS = {
    "trl": Peer([TORCH, "trl==1.16.0", "transformers==5.23.0", "peft==0.21.2"], trl),
    "llamafactory": Peer(
        [TORCH, "llamafactory==0.9.5", "transformers==5.6.0", "peft==0.18.1"], llamafactory, without=("torchvision", "torchaudio")
    ),
    "axolotl": Peer([TORCH, "axolotl==0.19.0", "transformers==5.16.1", "peft==0.20.0", "trl==1.9.0"], axolotl),
    "torchtune": Peer([TORCH, "torchtune==0.6.1", "torchao==0.14.1"], torchtune),
    "litgpt": Peer([TORCH, "litgpt==0.5.13", "lightning==2.6.6", "requests"], litgpt),
    "autotrain": Peer(
        [TORCH, "autotrain-advanced==0.8.36", "transformers==4.48.0", "peft==0.14.0", "trl==0.13.0"],
        autotrain,
        without=("torchvision", "timm"),
    ),
}

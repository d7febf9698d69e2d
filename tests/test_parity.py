"""Our training against the library's own: stock PEFT and a stock Trainer, in the same order of the same rows."""

from collections.abc import Iterator

import pytest
import torch
from small_job import make_job
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from gswa.backends.child import run_child
from gswa.basemodel import BUILTIN_FOLDER
from gswa.dataset import render
from gswa.files import read_lines
from gswa.order import read_order, read_training_chunks
from gswa.records import Chunk, TrainJob
from gswa.rundir import RunDir

pytestmark = [
    pytest.mark.backend,
    # PEFT 0.21 asks transformers 5.23 by its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
STEPS = 20


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def rows(tokenizer, chunks) -> list[dict[str, list[int]]]:
    rendered = [render(tokenizer, chunk.messages) for chunk in chunks]
    labels = [[token if carries else -100 for token, carries in zip(row.ids, row.mask, strict=True)] for row in rendered]
    return [{"input_ids": row.ids, "labels": row_labels} for row, row_labels in zip(rendered, labels, strict=True)]


def in_order(job: TrainJob) -> Iterator[Chunk]:
    chunks, order = list(read_training_chunks(job.data)), read_order(job.data)
    assert order is not None
    return (chunks[turn.chunk] for step in order.steps for turn in step)


def stock(job: TrainJob, tokenizer, folder) -> tuple[list[float], float]:
    """Losses of the first steps, and on the test rows after the last step; the learning rates are those that our run recorded."""
    from peft import LoraConfig, get_peft_model

    config, recorded = job.config, RunDir(job.run).steps()
    base = AutoModelForCausalLM.from_pretrained(BUILTIN_FOLDER, dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(config.seed)
    model = get_peft_model(base, LoraConfig(r=config.lora_rank, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: recorded[min(done, len(recorded) - 1)].learning_rate / config.learning_rate
    )
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=config.batch_size, gradient_accumulation_steps=config.gradient_accumulation,
        num_train_epochs=1, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    heard = Losses()
    collate = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
    shown = rows(tokenizer, in_order(job))
    Trainer(model, arguments, collate, shown, optimizers=(optimizer, rates), callbacks=[heard]).train()
    test = (Chunk.model_validate(line) for line in read_lines(job.data / "test.jsonl"))
    return heard.losses[:STEPS], held_out(model, rows(tokenizer, test))


def held_out(model, examples) -> float:
    """Nats per target token, row by row."""
    total = tokens = 0.0
    model.eval()
    for row in examples:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
        tokens += int((labels != -100).sum())
    return total / tokens


@pytest.fixture(scope="module")
def ours(tmp_path_factory, tokenizer):
    def train(number_format: str) -> TrainJob:
        job = make_job(tmp_path_factory.mktemp("runs"), tokenizer, epochs=4, number_format=number_format)
        run_child(job)
        return job

    return {number_format: train(number_format) for number_format in ("fp32", "bf16")}


@pytest.fixture(scope="module")
def theirs(ours, tokenizer, tmp_path_factory) -> tuple[list[float], float]:
    return stock(ours["fp32"], tokenizer, tmp_path_factory.mktemp("stock"))


def losses(job: TrainJob) -> list[float]:
    return [step.train_loss for step in RunDir(job.run).steps()][:STEPS]


def test_the_first_twenty_losses_are_those_of_the_stock_trainer(ours, theirs):
    assert len(theirs[0]) == STEPS
    assert losses(ours["fp32"]) == pytest.approx(theirs[0], abs=1e-4)


def test_in_bf16_they_differ_by_a_hundredth_at_most(ours, theirs):
    assert losses(ours["bf16"]) == pytest.approx(theirs[0], abs=1e-2)


@pytest.mark.parametrize(("number_format", "tolerance"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_the_held_out_loss_is_that_of_the_stock_trainer(number_format, tolerance, ours, theirs):
    after = RunDir(ours[number_format].run).evaluations("test")[-1].eval_loss
    assert after == pytest.approx(theirs[1], rel=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("number_format", "apart"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_on_a_card_the_losses_are_those_of_the_stock_trainer_on_the_cpu(number_format, apart, theirs, tokenizer, tmp_path):
    """With the batching and the cross-entropy that this card is fastest with."""
    job = make_job(tmp_path, tokenizer, epochs=4, device="cuda", number_format=number_format)
    run_child(job)
    assert losses(job) == pytest.approx(theirs[0], abs=apart)
    assert RunDir(job.run).evaluations("test")[-1].eval_loss == pytest.approx(theirs[1], rel=apart)

"""The torch backend on the built-in model: parity of what must be equal, and real deaths."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_job
from small_job import WORDS

from gswa.backends import child
from gswa.backends.base import PRELOAD, load_backend
from gswa.backends.checkpoint import last_sealed, seal
from gswa.backends.child import CHILD_ENVIRONMENT, run_child
from gswa.backends.preload import ANEW
from gswa.basemodel import BUILTIN_FOLDER
from gswa.config import RunConfig
from gswa.errors import ConfigError, GswaError, Interrupted, OutOfMemory, TrainingError
from gswa.files import write_lines
from gswa.records import Answer, EvalMetrics, Message, Prompt, TrainJob
from gswa.rundir import RunDir, now

pytestmark = pytest.mark.backend


@pytest.fixture(scope="session")
def make_job(tmp_path_factory, tokenizer):
    def make(folder: Path | None = None, action: str = "train", **settings) -> TrainJob:
        return small_job.make_job(folder or tmp_path_factory.mktemp("runs"), tokenizer, action, **settings)

    return make


@pytest.fixture(scope="session")
def trained(make_job) -> RunDir:
    job = make_job()
    run_child(job)
    return RunDir(job.run)


def losses(run: RunDir) -> list[float]:
    return [step.train_loss for step in run.steps()]


def test_a_run_leaves_steps_evaluations_checkpoints_and_an_adapter(trained):
    assert [step.step for step in trained.steps()] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in trained.evaluations("valid")][::2] == [0, 6]
    assert [e.step for e in trained.evaluations("test")] == [0, 6]
    assert last_sealed(trained.checkpoints)
    assert {path.name for path in trained.adapters.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert losses(trained)[-1] < losses(trained)[0]


STARTS_CUDA = """
import torch
from gswa.backends import worker
torch.cuda._is_in_bad_fork = lambda: True
worker.main = None  # a forked child gets no further
"""


def test_a_library_that_starts_cuda_as_it_is_loaded_costs_time_and_no_run(trained, make_job, tmp_path, monkeypatch):
    """No fork could use the card after that: the child loads everything anew."""
    (tmp_path / "starts_cuda.py").write_text(STARTS_CUDA, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(PRELOAD, "torch", (*PRELOAD["torch"], "starts_cuda"))
    monkeypatch.setattr(child, "_servers", {})
    job = make_job()
    try:
        run_child(job)
    finally:
        for server in child._servers.values():
            server.end()
    assert ANEW in RunDir(job.run).output_log.read_text(encoding="utf-8")
    assert losses(RunDir(job.run)) == losses(trained)


def test_the_same_seed_gives_the_same_losses_to_the_last_digit(trained, make_job):
    job = make_job()
    run_child(job)
    assert losses(RunDir(job.run)) == losses(trained)


@pytest.mark.parametrize(
    "exact",
    [{"batch_size": 1, "gradient_accumulation": 4}, {"batch_size": 4, "gradient_accumulation": 1}, {"gradient_checkpointing": True}],
)
def test_a_rung_that_is_exact_changes_no_loss(trained, make_job, exact):
    job = make_job(**exact)
    run_child(job)
    assert losses(RunDir(job.run)) == pytest.approx(losses(trained), abs=1e-5)


def test_the_evaluation_loss_does_not_depend_on_its_batch(trained, make_job):
    job = make_job(eval_batch_size=3)
    run_child(job)
    assert RunDir(job.run).evaluations("test")[0].eval_loss == pytest.approx(trained.evaluations("test")[0].eval_loss, abs=1e-5)


def test_losses_read_back_from_the_adapter_are_those_of_training(trained):
    job = TrainJob(
        action="evaluate",
        run=trained.path,
        model=str(BUILTIN_FOLDER),
        data=trained.chunks(1024),
        config=trained.current_config(),
        samples=1,
    )
    run_child(job)
    evaluation = trained.evaluation()
    assert evaluation.test_loss_before == pytest.approx(trained.evaluations("test")[0].eval_loss, abs=1e-6)
    assert evaluation.test_loss_after == pytest.approx(trained.evaluations("test")[-1].eval_loss, abs=1e-6)
    assert len(evaluation.samples) == 1


def test_a_terminated_run_goes_on_where_it_was_even_with_a_smaller_batch(trained, make_job):
    job = make_job()
    run = RunDir(job.run)

    def stop(message: dict) -> None:
        if isinstance(message.get("step"), dict) and message["step"]["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(job, stop)
    reached = run.steps()[-1].step
    assert 2 <= reached < 6
    assert last_sealed(run.checkpoints).name == f"checkpoint-{reached}"
    smaller = job.config.replace(batch_size=1, gradient_accumulation=4)
    run_child(job.model_copy(update={"config": smaller, "attempt": 2}))
    assert losses(run) == pytest.approx(losses(trained), abs=1e-5)
    assert [step.trained_tokens for step in run.steps()] == [step.trained_tokens for step in trained.steps()]
    assert {step.attempt for step in run.steps()} == {1, 2}


def test_sigterm_to_the_child_saves_and_is_told_apart(make_job):
    job = make_job(epochs=20)
    run = RunDir(job.run)

    def terminate(message: dict) -> None:
        if isinstance(message.get("step"), dict) and message["step"]["step"] == 1:
            os.kill(child_of_this_process(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        run_child(job, terminate)
    assert caught.value.exit_code == 75
    assert last_sealed(run.checkpoints).name == f"checkpoint-{run.steps()[-1].step}"


def test_a_stop_that_comes_while_the_parent_waits_for_the_next_step_still_saves_one(make_job):
    """The parent's end of the child's pipe was closed first, and the child died of it before its checkpoint."""
    job = make_job(epochs=200)
    run = RunDir(job.run)

    def stop(*_: object) -> None:
        raise Interrupted("enough")

    def soon(message: dict) -> None:
        if isinstance(message.get("step"), dict) and message["step"]["step"] == 1:
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Interrupted, match="enough"):
            run_child(job, soon)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert last_sealed(run.checkpoints).name == f"checkpoint-{run.steps()[-1].step}"
    assert "BrokenPipe" not in run.output_log.read_text()


def test_a_killed_child_is_not_taken_for_out_of_memory(make_job):
    def kill(message: dict) -> None:
        if isinstance(message.get("step"), dict):
            os.kill(child_of_this_process(), signal.SIGKILL)

    with pytest.raises(TrainingError, match="SIGKILL") as caught:
        run_child(make_job(epochs=20), kill)
    assert not isinstance(caught.value, OutOfMemory)


def test_the_child_does_not_outlive_its_parent(make_job):
    job = make_job(epochs=200)
    pid = os.fork()
    if pid == 0:
        threading.Thread(target=lambda: run_child(job), daemon=True).start()
        time.sleep(600)
    run = RunDir(job.run)
    deadline = time.monotonic() + 120
    while not run.steps() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(1.0)
    reached = len(run.steps())
    time.sleep(2.0)
    assert 0 < reached == len(run.steps())


def test_a_loss_that_is_no_number_stops_the_run_with_a_message(make_job):
    with pytest.raises(GswaError, match="the loss became"):
        run_child(make_job(learning_rate=1e30, epochs=3))


def test_a_run_whose_last_step_ruined_the_weights_ended_as_done(make_job):
    job = make_job(learning_rate=1e30, epochs=None, iters=1)
    with pytest.raises(GswaError, match="held-out loss is nan at step 1"):
        run_child(job)
    assert last_sealed(RunDir(job.run).checkpoints) is None
    assert not RunDir(job.run).evaluations("test")[1:]


def test_a_dry_run_meets_the_longest_rows_and_leaves_no_checkpoint(make_job):
    job = make_job(action="dry_run").model_copy(update={"max_steps": 2})
    run_child(job)
    run = RunDir(job.run)
    assert len(run.steps()) == 2
    assert not list(run.checkpoints.glob("*"))
    assert not run.evaluations()


def test_only_the_last_layers_are_adapted_when_asked(make_job):
    job = make_job(num_layers=1, iters=1, epochs=None)
    run_child(job)
    config = json.loads((RunDir(job.run).adapters / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [3]


def test_a_backend_that_does_not_exist_yet_says_so():
    with pytest.raises(ConfigError, match="mlx"):
        load_backend("mlx")


@pytest.mark.parametrize(("kind", "within"), [("float64", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("count", [1, 64, 700])
def test_the_chunked_loss_and_its_gradient_are_those_of_the_whole_matrix(kind, within, count):
    import torch

    from gswa.backends.torch.loss import ChunkedCrossEntropy

    torch.manual_seed(0)
    dtype = getattr(torch, kind)
    hidden = torch.randn(count, 16, dtype=dtype, requires_grad=True)
    head, targets = torch.randn(50, 16, dtype=dtype), torch.randint(0, 50, (count,))
    whole = torch.nn.functional.cross_entropy((hidden @ head.t()).double(), targets, reduction="sum") / 7
    (expected,) = torch.autograd.grad(whole, hidden)
    chunked = ChunkedCrossEntropy.apply(hidden, head, targets, 7)
    (gradient,) = torch.autograd.grad(chunked, hidden)
    assert chunked.item() == pytest.approx(whole.item(), rel=within)
    assert torch.allclose(gradient, expected, rtol=within, atol=within)


def test_a_four_bit_base_trains_on_the_cpu_as_the_whole_one_does_after_an_evaluation(make_job, trained):
    job = make_job(quantization="4bit")
    run_child(job)
    assert losses(RunDir(job.run)) == pytest.approx(losses(trained), abs=0.2)


def child_of_this_process() -> int:
    """The one that trains: a child of the preload server, which is a child of ours."""
    import psutil

    (pid,) = [
        child.pid for server in psutil.Process().children() if "gswa.backends.preload" in server.cmdline() for child in server.children()
    ]
    return pid


# -- generate --------------------------------------------------------------------------------------------------------------
def test_answers_come_in_order_and_do_not_depend_on_how_many_are_written_at_a_time(make_job, tmp_path):
    asked = [Prompt(id=str(n), messages=(Message(role="user", content=" ".join(WORDS[: 2 + 3 * n])),), max_new_tokens=12) for n in range(4)]
    write_lines(tmp_path / "prompts.jsonl", asked)
    written = []
    for size in (1, 3):
        answers: list[Answer] = []

        def listen(message, into=answers):
            into.extend(Answer.model_validate(answer) for answer in message.get("answers", ()))

        run_child(make_job(action="generate", eval_batch_size=size).model_copy(update={"data": tmp_path}), listen)
        assert [answer.id for answer in answers] == ["0", "1", "2", "3"]
        written.append([answer.text for answer in answers])
    assert written[0] == written[1]
    assert all(written[0])


def test_the_best_checkpoint_is_the_best_that_is_there_and_whole(tmp_path):
    from gswa.backends.torch.trainer import best_step

    run = RunDir.create(tmp_path)
    for step, loss in ((0, 1.0), (2, 1.5), (4, 3.0), (6, 2.0), (8, 2.5)):  # the base, one that was removed, and three that are there
        values = {"split": "valid", "eval_loss": loss, "perplexity": 1.0, "eval_tokens": 1, "peak_memory_gb": 0.0, "attempt": 1}
        run.append_eval(EvalMetrics(step=step, timestamp=now(), **values))
        if step >= 4:
            (folder := run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
            (folder / "adapter.safetensors").write_bytes(b"weights")
            seal(folder)
    assert best_step(run) == 6
    (run.checkpoints / "checkpoint-6" / "adapter.safetensors").write_bytes(b"weight")
    assert best_step(run) == 8


def test_sixty_equal_steps_are_saved_twenty_times(tmp_path):
    """Shares of three of them came out a little over 5 % here and there, and they were saved 26 times."""
    from gswa.backends.torch.trainer import Telemetry

    shares = [(step + 1) / 60 for step in range(60)]
    job = SimpleNamespace(run=tmp_path, action="train", config=RunConfig(evaluations=0))
    telemetry = Telemetry(SimpleNamespace(job=job, schedule=SimpleNamespace(shares=shares, steps=shares)))
    saved = []
    for step in range(1, 60):
        if telemetry._too_much_to_lose(step):
            saved.append(step)
            telemetry.saved_share = shares[step - 1]
    assert saved == [*range(3, 60, 3)]


def test_what_one_phase_freed_is_not_in_the_peak_of_the_next():
    """The heap is kept from step to step, which made an evaluation's peak the training's."""
    code = (
        "import torch; from gswa.backends.torch.memory import give_back, keep_heap, now_gb, peak_gb, reset_peak\n"
        "from gswa.config import RunConfig; keep_heap(RunConfig())\n"
        "tensors = [torch.ones(1 << 21) for _ in range(30)]; held = now_gb('cpu'); del tensors; kept = now_gb('cpu')\n"
        "give_back('cpu'); reset_peak('cpu'); print(held - kept, held - peak_gb('cpu'))"
    )
    env = {**os.environ, **CHILD_ENVIRONMENT}
    kept, left = map(
        float, subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.split()
    )
    assert left > 0.2 > 0.05 > kept  # of 0.23 GB

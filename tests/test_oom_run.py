"""Real want of memory, no mocks: a child held to a data segment that is too small for what it was asked."""

import itertools
from collections import defaultdict

import pytest

from gswa import attempt
from gswa.config import Layer, RunRequest, resolve
from gswa.conservation import conservation
from gswa.cursor import gaps, read_order, trained_spans
from gswa.errors import OutOfMemory
from gswa.files import write_lines
from gswa.records import Example, Message
from gswa.rundir import RunDir

pytestmark = pytest.mark.backend

WORDS = ("the", "cell", "divides", "and", "we", "measured", "its", "growth", "under", "light", "in", "every", "culture")
WORDS_OF_1000_TOKENS = 380
NOT_EVEN_LOADED_GB = 0.3


def text(seed: int, words: int) -> str:
    return " ".join(WORDS[(seed + i * i) % 13] + ("." if i % 9 == 8 else "") for i in range(words))


def make_run(folder, words: int = WORDS_OF_1000_TOKENS, held_out_words: int = 120, held_out: int = 4, **settings) -> RunDir:
    """16 training texts, the longest of just under 1024 tokens as rendered."""
    run = RunDir.create(folder)
    for split, number, length in (("train", 16, words), ("valid", held_out, held_out_words), ("test", held_out, held_out_words)):
        chats = (
            (Message(role="user", content="Continue."), Message(role="assistant", content=text(seed, length - 7 * seed)))
            for seed in range(number)
        )
        write_lines(run.examples / f"{split}.jsonl", (Example(id=f"{split}{n}", messages=chat) for n, chat in enumerate(chats)))
    defaults = {"epochs": 1, "evaluations": 1, "batch_size": 8, "gradient_accumulation": 1, "eval_batch_size": 1, "learning_rate": 1e-3}
    run.write_config(RunRequest(), resolve(Layer("test", {**defaults, **settings})))
    return run


def walk(run: RunDir) -> list[str]:
    """Train down the ladder to the end; the rungs that were taken. Raises what the last attempt raised."""
    while True:
        try:
            attempt.train(run)
            return [event.rung for event in run.fallbacks()]
        except OutOfMemory as error:
            if not attempt.step_down(run, error):
                raise


def least_gb(folder, **settings) -> float:
    """The smallest limit, to 10 MB, under which this configuration trains; by bisection, since machines differ."""
    low, high = 0.3, 1.5
    while high - low > 0.01:
        middle = (low + high) / 2
        run = make_run(folder, memory_limit_gb=middle, enable_oom_fallback=False, epochs=None, iters=1, **settings)
        try:
            attempt.train(run)
            high = middle
        except OutOfMemory:
            low = middle
    return high


@pytest.fixture(scope="module")
def three_rungs_gb(tmp_path_factory) -> float:
    """Fits a micro-batch of 1 and not of 2."""
    folder = tmp_path_factory.mktemp("bisection")
    one, two = (least_gb(folder, batch_size=size, gradient_accumulation=8 // size) for size in (1, 2))
    assert two - one > 0.02
    return (one + two) / 2


def test_a_run_that_fits_only_after_three_rungs_completes(tmp_path, three_rungs_gb):
    run = make_run(tmp_path, memory_limit_gb=three_rungs_gb)
    assert walk(run) == ["batch_size"] * 3
    assert [event.after["batch_size"] for event in run.fallbacks()] == [4, 2, 1]
    assert {run.current_config().effective_batch_size, run.settled().config.effective_batch_size} == {8}
    assert [step.step for step in run.steps()] == [1, 2]
    assert {event.phase for event in run.fallbacks()} == {"train"}
    predicted = [event.predicted_memory_gb or 0.0 for event in run.fallbacks()]
    assert predicted == sorted(predicted, reverse=True) and predicted[-1] > run.metadata()["predicted_memory_gb"] > 0


@pytest.mark.parametrize("batch", [8, 4, 2])
def test_each_setting_that_was_given_up_dies_when_started_alone(tmp_path, batch, three_rungs_gb):
    run = make_run(tmp_path, memory_limit_gb=three_rungs_gb, batch_size=batch, gradient_accumulation=8 // batch, enable_oom_fallback=False)
    with pytest.raises(OutOfMemory, match="switched off"):
        attempt.train(run)
    assert not run.steps()


def test_the_batch_rungs_change_no_loss(tmp_path, three_rungs_gb):
    limited, free = make_run(tmp_path, memory_limit_gb=three_rungs_gb), make_run(tmp_path)
    walk(limited)
    walk(free)
    assert [step.train_loss for step in limited.steps()] == pytest.approx([step.train_loss for step in free.steps()], abs=1e-5)
    assert [step.learning_rate for step in limited.steps()] == [step.learning_rate for step in free.steps()]


def test_memory_grew_with_every_new_width_in_bf16(tmp_path):
    """A kernel was kept for every shape: a run that fitted its first step walked the ladder for each next one."""
    run = make_run(tmp_path, batch_size=1, gradient_accumulation=1, number_format="bf16", epochs=2, held_out_words=20)
    attempt.train(run)
    peaks = [step.peak_memory_gb for step in run.steps()]
    assert len(peaks) == 32
    assert max(peaks) < 1.25 * peaks[0]  # the step of the longest chunk comes first


SHORT = {"words": 120, "batch_size": 2, "gradient_accumulation": 4}
LONG_HELD_OUT = {"held_out_words": WORDS_OF_1000_TOKENS, "held_out": 16, "eval_batch_size": 16}


@pytest.fixture(scope="module")
def short_gb(tmp_path_factory) -> float:
    """Fits training on short texts, and not an evaluation of 16 long ones at a time."""
    return least_gb(tmp_path_factory.mktemp("bisection"), **SHORT) + 0.03


def test_an_evaluation_without_memory_shrinks_its_batch_and_leaves_the_training_batch(tmp_path, short_gb):
    run = make_run(tmp_path, memory_limit_gb=short_gb, **SHORT, **LONG_HELD_OUT)
    assert set(walk(run)) == {"eval_batch_size"}
    assert {event.phase for event in run.fallbacks()} == {"evaluate"}
    assert run.current_config().batch_size == 2
    assert run.current_config().eval_batch_size < 16


def test_the_last_evaluation_had_no_ladder(tmp_path, short_gb, caplog):
    """A run that was trained ended as failed, its adapter ready."""
    settings = {**SHORT, **LONG_HELD_OUT, "iters": 1, "epochs": None}
    run = make_run(tmp_path, **settings)
    attempt.train(run)

    def evaluated(gigabytes: float) -> list[str]:
        run.write_config(RunRequest(), resolve(Layer("test", {**run.settled().config.model_dump(), "memory_limit_gb": gigabytes})))
        attempt.evaluate(run)
        return [event.rung for event in run.fallbacks()]

    rungs = evaluated(short_gb)
    assert rungs
    assert set(rungs) == {"eval_batch_size"}
    assert run.evaluation() is not None
    run.evaluation_file.unlink()
    evaluated(NOT_EVEN_LOADED_GB)
    assert run.evaluation() is None
    assert "was not evaluated, for want of memory" in caplog.text


def test_the_foot_of_the_ladder_says_what_was_tried(tmp_path):
    run = make_run(tmp_path, memory_limit_gb=NOT_EVEN_LOADED_GB)
    with pytest.raises(OutOfMemory) as caught:
        walk(run)
    message = str(caught.value)
    assert message.count("attempt") == len(run.fallbacks()) + 1
    assert "GB" in message
    assert "--model" in message
    assert run.current_config().max_seq_length == 256


def lower(run: RunDir, length: int, **changes) -> None:
    """A length rung taken by hand: what it changes is an event like any other."""
    from gswa.rundir import OomFallback

    run.record(
        OomFallback(
            phase="train", step=0, error="", rung="max_seq_length", reason="", before={}, after={"max_seq_length": length, **changes}
        )
    )


def stop_after(run: RunDir, step: int) -> None:
    """Train until this step is in a checkpoint, then stop as Ctrl-C does."""

    def tell(metrics, total) -> None:
        if metrics.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt.train(run, tell)


@pytest.mark.parametrize("schedule", [{"epochs": 2}, {"epochs": 1.5}, {"epochs": None, "iters": 14}])
def test_after_two_length_rungs_in_mid_epoch_the_trained_spans_are_the_epochs_without_overlap(tmp_path, schedule):
    run = make_run(tmp_path, batch_size=2, gradient_accumulation=1, **schedule)
    stop_after(run, 3)
    lower(run, 768)
    stop_after(run, run.steps()[-1].step + 3)
    lower(run, 576)
    attempt.train(run)
    order = read_order(run.chunks(576))
    assert not order.lost
    trained = trained_spans(run, order.start + len(order.steps))
    texts = {example.id: example.target for example in run.read_examples("train")}
    for (name, _, _), spans in trained.items():
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(sorted(spans))), "overlap"
        if schedule.get("iters") is None:
            assert gaps(spans, texts[name]) == []
    per_epoch = defaultdict(set)
    for name, epoch, _ in trained:
        per_epoch[epoch].add(name)
    if schedule.get("epochs") == 2:
        assert [per_epoch[0], per_epoch[1]] == [set(texts), set(texts)]
    if schedule.get("epochs") == 1.5:
        assert (len(per_epoch[0]), len(per_epoch[1])) == (16, 8)
    if schedule.get("iters"):
        assert run.steps()[-1].step == 14
    assert [step.step for step in run.steps()] == list(range(1, len(run.steps()) + 1))
    assert conservation(run, 576)["holds"]
    assert len({path.name for path in (run.path / "data").iterdir() if (path / "order.json").exists()}) == 3


def test_a_length_rung_leaves_the_learning_rate_a_function_of_the_text_done(tmp_path):
    run = make_run(tmp_path, batch_size=2, gradient_accumulation=1, epochs=2)
    stop_after(run, 4)
    before = read_order(run.chunks(1024))
    lower(run, 512)
    attempt.train(run)
    after = read_order(run.chunks(512))
    assert after.start >= 4
    assert after.share_before == pytest.approx(before.shares[after.start - 1], abs=0.02)
    assert list(after.shares) == sorted(after.shares)
    assert after.shares[-1] == pytest.approx(1.0)


def test_a_checkpoint_older_than_the_order_makes_the_order_anew(tmp_path):
    run = make_run(tmp_path, batch_size=2, gradient_accumulation=1, epochs=2)
    stop_after(run, 4)
    lower(run, 768)
    stop_after(run, run.steps()[-1].step + 2)
    start = read_order(run.chunks(768)).start
    for path in run.checkpoints.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) >= start:
            (path / "optimizer.pt").write_bytes(b"damaged")
    attempt.train(run)
    order = read_order(run.chunks(768))
    assert order.start < start
    trained = trained_spans(run, order.start + len(order.steps))
    texts = {example.id: example.target for example in run.read_examples("train")}
    assert all(gaps(spans, texts[name]) == [] for (name, _, _), spans in trained.items())

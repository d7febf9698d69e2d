"""Training lines in the forms that people have: read, written back, and passed over with a reason."""

import json
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gswa import formats
from gswa.errors import DataError
from gswa.examples import prepare
from gswa.formats import FAULTS_SHOWN, OWN, as_line, file_form, parse_example, read_examples
from gswa.forms import FORMS, TEXT_KIND, WRITE, form_of
from gswa.records import Block, Chunk, Document, Message

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}
LINES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "system", "content": "Be brief."}, *GOOD["messages"]]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
    "alpaca": {"instruction": "Rewrite.", "input": "One.\n\nTwo.", "output": "Three.", "system": "Be brief.", "history": [["a", "b"]]},
    "text": {"text": "A whole text.\n\nOf two paragraphs."},
}
TEXTS = st.text("a .\n", min_size=1)


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def contents(line: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in parse_example(json.dumps(line).encode(), "x").messages]


# -- forms -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_a_line_comes_out_in_the_form_it_came_in_with_every_field_it_had(form: str) -> None:
    line = {**LINES[form], "id": "a", "topic": "bacteria", "scores": [1, 2]}
    assert form_of(line) == form
    assert as_line(parse_example(json.dumps(line).encode(), "default"), form) == line


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", [{"document": 12}, {"group": 3}, {"kind": 3}, {"blocks": "A"}, {"cut": "no"}, {"source": None}])
def test_a_user_s_field_that_is_called_as_one_of_ours_made_a_good_line_a_bad_one(form: str, field: dict[str, Any]) -> None:
    line = {**LINES[form], "id": "a", **field}
    assert as_line(parse_example(json.dumps(line).encode(), "x"), form) == line


def test_a_user_s_field_that_is_called_as_one_of_a_chunk_is_kept_beside_it() -> None:
    own = {"part": "intro", "parts": ["a"], "tokens": 17, "target_tokens": 3, "span": "x"}
    example = parse_example(json.dumps({**GOOD, "id": "a", **own}).encode(), "x")
    chunk = Chunk.model_validate({**dict(example), "span": (0, 3), "tokens": 34, "target_tokens": 2})
    line = as_line(chunk, "messages")
    assert line == {**GOOD, "id": "a", "span": (0, 3), "tokens": 34, "target_tokens": 2, OWN: own}
    assert parse_example(json.dumps(line).encode(), "x").model_extra == {"span": [0, 3], "tokens": 34, "target_tokens": 2, OWN: own}


@pytest.mark.parametrize(("form", "field"), [("text", "text"), ("text", "prompt"), ("alpaca", "output"), ("alpaca", "conversations")])
def test_a_user_s_field_that_the_file_s_form_needs_did_not_overwrite_the_text(form: str, field: str) -> None:
    example = parse_example(json.dumps({**GOOD, "id": "a", field: "another"}).encode(), "x")
    line = as_line(example, form)
    assert parse_example(json.dumps(line).encode(), "x").messages == example.messages
    assert line[OWN] == {field: "another"}


@given(answer=TEXTS, asked=TEXTS)
@pytest.mark.parametrize("form", FORMS)
def test_no_form_changes_what_is_said(form: str, answer: str, asked: str) -> None:
    said = [Message(role="user", content=asked), Message(role="assistant", content=answer)]
    assert [Message(**turn) for turn in FORMS[form].read(FORMS[form].write(said))] == said


def test_each_form_says_who_speaks() -> None:
    pair = [("user", "Hi"), ("assistant", "Yes")]
    assert contents(LINES["sharegpt"]) == contents(GOOD) == pair
    assert contents({**LINES["sharegpt"], "system": "Be brief."}) == [("system", "Be brief."), *pair]
    earlier = [("system", "Be brief."), ("user", "a"), ("assistant", "b")]
    assert contents(LINES["alpaca"]) == [*earlier, ("user", "Rewrite.\n\nOne.\n\nTwo."), ("assistant", "Three.")]
    assert contents({"instruction": "Say yes.", "input": "", "output": "Yes"}) == [("user", "Say yes."), ("assistant", "Yes")]
    assert contents({"text": "A.", "prompt": None}) == [("user", WRITE), ("assistant", "A.")]
    assert contents({"text": "A.", "prompt": "Go on."}) == [("user", "Go on."), ("assistant", "A.")]
    parts = {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}
    assert contents({"messages": [parts, GOOD["messages"][1]]}) == pair


def test_a_plain_text_is_asked_for_in_plain_words_and_known_by_its_kind() -> None:
    example = parse_example(json.dumps(LINES["text"]).encode(), "x")
    assert (example.messages[0].content, example.kind) == (WRITE, TEXT_KIND)


@pytest.mark.parametrize("form", ["alpaca", "text"])
def test_a_chat_that_a_form_cannot_hold_is_written_as_messages(form: str) -> None:
    twice = {"messages": [GOOD["messages"][0], *GOOD["messages"]]}
    assert as_line(parse_example(json.dumps(twice).encode(), "x"), form) == {**twice, "id": "x"}


def test_the_form_of_a_file_is_that_of_its_first_example(tmp_path: Path) -> None:
    assert file_form(written(tmp_path / "a.jsonl", "\ufeffoops\n", [1], LINES["alpaca"], GOOD)) == "alpaca"
    assert file_form(written(tmp_path / "b.jsonl")) == "messages"


# -- files -----------------------------------------------------------------------------------------------------------------
def test_lines_are_examples_named_by_their_number(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl", "\ufeff", GOOD, "\n", {**GOOD, "topic": "x"}, *LINES.values())
    examples = list(read_examples(path))
    assert [example.id for example in examples] == ["train-1", *(f"train-{n}" for n in range(3, 8))]
    assert examples[1].model_extra == {"topic": "x"}


def test_examples_of_ours_come_back_as_they_were(tmp_path: Path) -> None:
    blocks = tuple(Block(kind="paragraph", text="word " * 160 + "end.") for _ in range(3))
    prepare([Document(source="a.txt", sha256="0", status="ok", title="On bacteria", blocks=blocks)], tmp_path, 42)
    (example, *_) = read_examples(tmp_path / "train.jsonl")
    assert (example.document, example.kind, example.blocks, len(example.id)) == ("a.txt", "continue", (0,), 16)
    assert example.group


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken\n", "not valid JSON"),
        ("[1]\n", "not a JSON object"),
        ({"prompt": "plain", "completion": "x"}, "none of messages, conversations"),
        ({"instruction": "a", "input": 1, "output": "b"}, "not a text"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "history"),
        ({"conversations": []}, "last message"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}]}, "role"),
        ({"text": " "}, "empty"),
        ({"text": 1}, "content"),
        ({"messages": "hi"}, "not a list"),
        ({"messages": []}, "last message"),
        ({"messages": GOOD["messages"][:1]}, "last message"),
        ({"messages": GOOD["messages"][1:]}, "no message of a user"),
        ({"messages": ["hi"]}, "not a JSON object"),
        ({"messages": [*GOOD["messages"][:1], {"role": "assistant", "content": " "}]}, "empty"),
        ({"messages": [GOOD["messages"][0], {"role": "assistant", "content": None}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, GOOD["messages"][1]]}, "no text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}, GOOD["messages"][1]]}, "no text"),
        ({"instruction": "a", "input": 0, "output": "b"}, "not a text"),
        ('{"text": "a", "weight": 1e999}\n', "weight"),
        ({"messages": [{"role": "wizard", "content": "x"}, GOOD["messages"][1]]}, "role"),
        ({**GOOD, "weight": -1}, "weight"),
        ({"messages": [GOOD["messages"][1], *GOOD["messages"]]}, "begins with the assistant"),
        ({"system": "a", "conversations": [{"from": "gpt", "value": "b"}, *LINES["sharegpt"]["conversations"]]}, "begins"),
        ('{"messages": ' + "[" * 100_000 + "\n", "nested too deeply"),
        ({**GOOD, "topic": json.loads("[" * 300 + "]" * 300)}, "nested too deeply"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\\ud800"}]}\n', "content"),
    ],
)
def test_a_bad_line_is_passed_over_with_its_number_and_reason(tmp_path: Path, line: Any, reason: str) -> None:
    faults: list[tuple[int, str]] = []
    path = written(tmp_path / "train.jsonl", GOOD, line, GOOD)
    assert len(list(read_examples(path, lambda number, why: faults.append((number, why))))) == 2
    assert [number for number, _ in faults] == [2]
    assert reason in faults[0][1]


@pytest.mark.parametrize("content", [b"\xed\xa0\x80", b"caf\xe9"])
def test_bytes_that_are_no_characters_make_one_bad_line_and_end_nothing(tmp_path: Path, content: bytes) -> None:
    line, faults = json.dumps(GOOD).encode(), list[str]()
    (tmp_path / "train.jsonl").write_bytes(b"\n".join([line, line.replace(b"Yes", content), line]))
    assert len(list(read_examples(tmp_path / "train.jsonl", lambda _, why: faults.append(why)))) == 2
    assert [fault.partition(";")[0] for fault in faults] == ["not valid UTF-8"]
    assert file_form(tmp_path / "train.jsonl") == "messages"


@pytest.mark.parametrize(
    ("content", "way_out"),
    [
        (json.dumps([GOOD, GOOD]), "jq -c '.[]' train.jsonl"),
        (json.dumps([GOOD, GOOD], indent=2), "jq -c '.[]' train.jsonl"),
        (json.dumps(GOOD, indent=2), "jq -c . train.jsonl"),
        ("[1]\n", "accepted are lines such as"),
    ],
)
def test_a_file_that_is_json_but_not_in_lines_is_told_how_to_become_so(tmp_path: Path, content: str, way_out: str) -> None:
    with pytest.raises(DataError, match=re.escape(way_out)):
        list(read_examples(written(tmp_path / "train.jsonl", content)))


def test_a_file_of_utf_16_is_told_how_to_become_utf_8(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(DataError, match=r"iconv -f utf-16 -t utf-8 train\.jsonl"):
        list(read_examples(tmp_path / "train.jsonl"))


def test_without_a_listener_bad_lines_are_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "train.jsonl", GOOD, *["oops\n"] * 30)
    list(read_examples(path))
    assert len(caplog.records) == FAULTS_SHOWN + 1
    assert "30 of 31 lines passed over" in caplog.text


def test_two_examples_never_share_an_id(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl", *({**GOOD, "id": name} for name in (7, "7", "7-2", 7, "train-6")), GOOD)
    ids: Sequence[str] = [example.id for example in read_examples(path)]
    assert len(set(ids)) == 6


def test_an_id_is_remembered_however_many_came_after_it_and_in_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of their hashes held 80 to 101 bytes for each."""
    monkeypatch.setattr(formats, "NEWEST", 100)
    seen, names = formats._Seen(), [f"train-{number}" for number in range(20_000)]
    tracemalloc.start()
    assert all(map(seen.add, names))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not any(map(seen.add, names))
    assert held < 20 * len(names)


def test_a_file_without_any_example_says_what_is_accepted(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl", {"title": "a"})
    with pytest.raises(DataError, match=r"line 1: none of messages.*accepted are lines such as"):
        list(read_examples(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl: no such file"):
        read_examples(tmp_path / "train.jsonl")

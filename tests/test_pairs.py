"""Plain versions of passages: what counts, what is kept, who writes, and when writing stops."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from small_corpus import write_txt

from gswa.corpus.index import parse_corpus, read_documents
from gswa.errors import ConfigError, TrainingError
from gswa.intake import prepare_command
from gswa.pairs import Survey, citations, fault, make_pairs, numbers, plain_sides, survey, write_pairs
from gswa.passages import digest, passages
from gswa.recipe import Recipe, read_recipe
from gswa.records import Answer, Block, Document, Prompt
from gswa.workspace import Workspace
from gswa.writers import ServerWriter, Speed, Tell

RECIPE = read_recipe()
FAST, SLOW = Speed(0.01, 100.0), Speed(60.0, 1e6)
PASSAGE = (
    "Because of the yield, which was 12.5 % higher in 1,200 cultures, we concluded, as did Smith et al. (2010), that phosphate "
    "governs the making of antibiotics in Streptomyces [3,4]."
)
PLAIN = (
    "The yield was 12.5 % higher. There were 1200 cultures. Smith et al. (2010) concluded the same. Phosphate controls how "
    "antibiotics are made. This is in Streptomyces [3,4]."
)


def texts(count: int) -> dict[str, str]:
    made = [f"{PASSAGE} It was found {n} times." for n in range(count)]
    return {digest(text): text for text in made}


class Echo:
    """Answers each prompt by what `say` makes of its passage, two at a time."""

    def __init__(self, say: Callable[[str], str], name: str = "echo", speed: Speed = FAST) -> None:
        self.say, self.name, self.speed = say, name, speed
        self.asked: list[str] = []

    def write(self, prompts: Sequence[Prompt], tell: Tell) -> None:
        for at in range(0, len(prompts), 2):
            batch = prompts[at : at + 2]
            self.asked += [prompt.id for prompt in batch]
            tell([Answer(id=p.id, text=self.say(p.messages[0].content.split("\n\n", 1)[1]), tokens=9) for p in batch], self.speed)


def plainly(passage: str) -> str:
    return PLAIN + passage.removeprefix(PASSAGE)


# -- what counts -----------------------------------------------------------------------------------------------------------
def test_a_plain_version_keeps_numbers_and_citations() -> None:
    assert fault(PLAIN, PASSAGE) == ""
    assert numbers(PASSAGE) == {"12.5", "1200"}
    assert citations(PASSAGE) == {"smithetal2010", "34"}


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        (PLAIN.replace("12.5", "12"), "number lost: 12.5"),
        (f"{PLAIN} It took 7 days.", "number invented: 7"),
        (PLAIN.replace(" [3,4]", ""), "citation lost"),
        (PLAIN.replace("Smith et al. (2010)", "Smith"), "citation lost"),
        (PLAIN.replace("Smith", "Jones"), "citation lost"),
        ("Yield.", "its length is 3% of the passage's"),
        (PASSAGE, "it copies the passage"),
    ],
)
def test_what_lost_invented_or_copied_does_not_count(plain: str, why: str) -> None:
    assert fault(plain, PASSAGE).startswith(why)


def test_passages_to_rewrite_are_those_whose_turn_it_is() -> None:
    blocks = tuple(Block(kind="paragraph", text=f"w{n} " * 200 + "end.", section="S") for n in range(60))
    document = Document(source="a.pdf", sha256="0", status="ok", blocks=blocks)
    found = survey([document, document], RECIPE, 1)
    assert found.words == 2 * 60 * 201
    assert 0.15 < len(found.passages) / 60 < 0.45
    assert set(found.passages.values()) <= {passage.text for passage in passages(document, RECIPE)}


# -- what is kept ----------------------------------------------------------------------------------------------------------
def test_what_was_written_is_not_written_again_and_faulty_answers_do_not_count(tmp_path: Path) -> None:
    wanted = texts(10)
    writer = Echo(lambda passage: "Sure, here is the text:\n\n" + plainly(passage) if "3 times" not in passage else "No.")
    report = write_pairs(wanted, tmp_path, writer)
    assert (report.wanted, report.ready, report.refused) == (10, 9, 1)
    assert all(plain == plainly(wanted[name]) for name, plain in plain_sides(tmp_path).items())
    assert write_pairs(wanted, tmp_path, writer) == report
    assert sorted(writer.asked) == sorted(wanted)


def test_what_was_written_before_an_end_is_kept(tmp_path: Path) -> None:
    def fail_at_last(passage: str) -> str:
        if len(writer.asked) > 4:
            raise TrainingError("the server went away")
        return plainly(passage)

    writer = Echo(fail_at_last)
    with pytest.raises(TrainingError):
        write_pairs(texts(8), tmp_path, writer)
    assert len(plain_sides(tmp_path)) == 4
    again = Echo(plainly)
    assert write_pairs(texts(8), tmp_path, again).ready == 8
    assert len(again.asked) == 4


# -- when it is written ----------------------------------------------------------------------------------------------------
def recipe(make: str) -> Recipe:
    return RECIPE.model_copy(update={"pairs": RECIPE.pairs.model_copy(update={"make": make})})


def test_a_model_that_cannot_write_is_given_up_after_a_few_and_the_run_is_told(tmp_path: Path) -> None:
    writer = Echo(lambda passage: "I am a small model.")
    report = make_pairs(Survey(passages=texts(50), words=9999), tmp_path, writer, recipe("auto"), epochs=3)
    assert report.ready == 0 and len(writer.asked) <= 6
    assert report.in_words().startswith("rewriting, which is what the writing page does, is untrained: the model cannot write")


def test_writing_that_takes_longer_than_training_is_given_up(tmp_path: Path) -> None:
    slow = Echo(plainly, speed=SLOW)
    report = make_pairs(Survey(passages=texts(50), words=9999), tmp_path, slow, recipe("auto"), epochs=3)
    assert "writing plain versions would take 24 min, and the training about 0 s" in report.reason
    assert "is trained on 2 of 50 passages" in report.in_words()
    assert make_pairs(Survey(passages=texts(50), words=9999), tmp_path, slow, recipe("always"), epochs=3).ready == 50


@pytest.mark.parametrize(("make", "name", "reason"), [("never", "echo", "pairs.make: never"), ("auto", "gswa-tiny", "too small")])
def test_who_is_not_asked_writes_nothing(tmp_path: Path, make: str, name: str, reason: str) -> None:
    writer = Echo(plainly, name)
    report = make_pairs(Survey(passages=texts(3), words=99), tmp_path, writer, recipe(make), epochs=3)
    assert reason in report.reason and writer.asked == []


def test_with_all_its_pairs_the_report_complains_of_nothing(tmp_path: Path) -> None:
    report = make_pairs(Survey(passages=texts(3), words=9999), tmp_path, Echo(plainly), recipe("auto"), epochs=3)
    assert report.in_words() == "3 passages have a plain version to be rewritten from"


def test_prepare_says_whether_rewriting_will_be_trained(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.corpus.mkdir(parents=True)
    for seed in range(4):
        write_txt(workspace.corpus / f"{seed}.txt", f"Spores and what they remember of parent {seed}", seed)
    parse_corpus(workspace.corpus, workspace.parsed)
    assert prepare_command(workspace, 42)["rewriting"].startswith("untrained: no passage has a plain version")
    found = survey(read_documents(workspace.parsed), RECIPE, 42)
    write_pairs(found.passages, workspace.pairs, Echo(lambda passage: " ".join(reversed(passage.split()))))
    said = prepare_command(workspace, 42)
    assert said["kinds"]["rewrite"] > 0 and "rewriting" not in said


# -- a server --------------------------------------------------------------------------------------------------------------
class Completions(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, asked["model"], asked["temperature"]) == ("/v1/chat/completions", "local", 0)
        passage = asked["messages"][0]["content"].split("\n\n", 1)[1]
        body = json.dumps({"choices": [{"message": {"content": plainly(passage)}}], "usage": {"completion_tokens": 9}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    http = HTTPServer(("127.0.0.1", 0), Completions)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()


def test_a_local_server_writes(tmp_path: Path, server: str) -> None:
    assert write_pairs(texts(6), tmp_path, ServerWriter(server, "local")).ready == 6


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"http://127\.0\.0\.1:9/v1: no answer from local"):
        write_pairs(texts(1), tmp_path, ServerWriter("http://127.0.0.1:9/v1", "local"))


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "http://8.8.8.8/v1", "http:///v1"])
def test_papers_go_to_no_server_far_away(url: str) -> None:
    with pytest.raises(ConfigError, match="not an address on this machine or its network"):
        ServerWriter(url, "gpt")


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://192.168.1.7/v1", "http://[::1]:1/v1", "http://gpu.local/v1"])
def test_near_servers_are_asked(url: str) -> None:
    assert ServerWriter(url, "m").url == url

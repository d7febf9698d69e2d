"""Who writes plain prose: the base model itself, in a child process, or a server on this machine that speaks OpenAI's API."""

import ipaddress
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from gswa.attempt import job_for
from gswa.backends.child import Message as ChildMessage
from gswa.backends.child import run_child
from gswa.config import RunConfig
from gswa.errors import ConfigError, OutOfMemory, TrainingError
from gswa.files import write_lines
from gswa.records import Answer, Prompt
from gswa.rundir import RunDir

log = logging.getLogger("gswa")
SERVER_SECONDS = 300.0  # for one answer
AT_ONCE = 4  # questions to a server


class Speed(NamedTuple):
    """`seconds` that the answers took together; tokens per second of a forward pass, None where that is not known."""

    seconds: float
    forward_tokens_per_sec: float | None = None


Tell = Callable[[Sequence[Answer], Speed], None]


class Writer(Protocol):
    @property
    def name(self) -> str:
        """What answers are kept under: another name, other answers."""
        ...

    def write(self, prompts: Sequence[Prompt], tell: Tell) -> None:
        """Answer the prompts, telling as it goes. An exception out of `tell` ends the writing, and comes out here."""
        ...


class BaseWriter:
    """The run's base model. Where memory runs out, fewer prompts are answered at a time."""

    def __init__(self, run: RunDir, config: RunConfig) -> None:
        self.run, self.config = run, config

    @property
    def name(self) -> str:
        return self.config.model_id

    def write(self, prompts: Sequence[Prompt], tell: Tell) -> None:
        left = {prompt.id: prompt for prompt in prompts}
        config = self.config

        def listen(message: ChildMessage) -> None:
            if "answers" in message:
                answers = [Answer.model_validate(answer) for answer in message["answers"]]
                for answer in answers:
                    left.pop(answer.id, None)
                tell(answers, Speed(message["seconds"], message["forward_tokens_per_sec"]))

        while left:
            folder = self.run.path / "data" / "pairs"
            write_lines(folder / "prompts.jsonl", left.values())
            try:
                run_child(job_for(self.run, config, action="generate").model_copy(update={"data": folder}), listen)
            except OutOfMemory:
                if config.eval_batch_size == 1:
                    raise
                config = config.replace(eval_batch_size=config.eval_batch_size // 2)
                log.info("out of memory while writing; %d prompts at a time from here on", config.eval_batch_size)


class ServerWriter:
    """A model behind an OpenAI-compatible server. Raises ConfigError for an address that is not on this machine or its network."""

    def __init__(self, url: str, model: str) -> None:
        if not _is_near(urlsplit(url).hostname or ""):
            raise ConfigError(f"pairs.url {url}: not an address on this machine or its network, and papers do not leave it")
        self.url, self.model = url.rstrip("/"), model

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def write(self, prompts: Sequence[Prompt], tell: Tell) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for answer in _in_order(pool, self._answer, prompts):
                tell([answer], Speed(0.0))

    def _answer(self, prompt: Prompt) -> Answer:
        body = {
            "model": self.model,
            "messages": [message.model_dump() for message in prompt.messages],
            "max_tokens": prompt.max_new_tokens,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=SERVER_SECONDS) as response:
                content = json.load(response)
            text = str(content["choices"][0]["message"]["content"]).strip()
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise TrainingError(f"{self.url}: no answer from {self.model} ({error}); is the server running?") from error
        return Answer(id=prompt.id, text=text, tokens=int((content.get("usage") or {}).get("completion_tokens") or 0))


def _in_order(pool: ThreadPoolExecutor, answer: Callable[[Prompt], Answer], prompts: Sequence[Prompt]) -> Iterator[Answer]:
    """As `pool.map`, asking only a few ahead: an end of the writing leaves no queue behind."""
    for at in range(0, len(prompts), AT_ONCE):
        yield from pool.map(answer, prompts[at : at + AT_ONCE])


def _is_near(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".localhost")) or ("." not in host and bool(host))
    return address.is_loopback or address.is_private

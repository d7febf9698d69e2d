"""The preload server: has the libraries loaded, and forks one child per attempt, so that the next rung starts at once.

    parent ──socket──> server ──fork──> child          python -m gswa.backends.preload SOCKET MODULE…

A plain program, so that nothing of the parent's `__main__` is imported again. The server ends with its parent, at end of
file on the socket. The child ends with its parent too, though the server is what forked it: see the lifeline in `worker`.
Here no thread is started, no parallel region entered and CUDA not touched: a fork would not survive them. Where a library touches
CUDA through torch all the same, the child loads everything anew.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

from gswa.nvidia import Gpu, read_nvidia

ANEW = "a library has started CUDA in the preload server; everything is loaded anew"


def serve(connection: socket.socket, modules: list[str], bitsandbytes: bool) -> None:
    """Load, say so, then fork on request until the parent is gone."""
    # Nothing of what the libraries make is ever garbage: looking through it took a fifth of their loading (4.7 for 3.9
    # CPU-seconds), and 0.2 to 0.5 seconds of every child, which then had pages of its own of it all.
    gc.disable()
    with cuda_untouched(read_nvidia(0.0, 0.0).gpus) if bitsandbytes else nullcontext():
        for name in modules:
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the parent's business
    _say(connection, ready=os.getpid())
    while True:
        readable, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 512)
            _report_ended(connection)
        if connection.fileno() in readable:
            request, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                for unneeded in (connection.fileno(), woken, wake):
                    os.close(unneeded)
                _child(json.loads(request)["job"], *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            _say(connection, started=pid)


@contextmanager
def cuda_untouched(gpus: Sequence[Gpu]) -> Iterator[None]:
    """While entered, torch answers with these what a library asks of its cards.

    bitsandbytes asks as it is imported, and torch would ask CUDA: no child forked after that could use a card.
    """
    import torch

    count = len(gpus) if torch.version.cuda else 0  # else torch is built for the CPU
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: count > 0,
        "device_count": lambda: count,
        "get_device_capability": lambda device=None: gpus[_place(device)].compute_capability,
    }
    asked = {name: getattr(torch.cuda, name) for name in answers}
    vars(torch.cuda).update(answers)
    try:
        yield
    finally:
        vars(torch.cuda).update(asked)


def _place(device: Any) -> int:
    """The number of a card, named in one of torch's ways: torch.cuda.device(1), torch.device("cuda:1"), "cuda:1", 1 or None."""
    import torch

    if isinstance(device, str):
        device = torch.device(device)
    return int(getattr(device, "idx", getattr(device, "index", device)) or 0)


def _say(connection: socket.socket, **content: Any) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _report_ended(connection: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(connection, ended=pid, code=os.waitstatus_to_exitcode(status))


def _child(job: str, output: int, messages: int, lifeline: int) -> NoReturn:
    """Become a process of its own, run the job, and never return into the server."""
    from gswa.backends.worker import main

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if _cuda_is_lost():
        sys.stderr.write(f"{ANEW}\n")
        sys.stderr.flush()
        for descriptor in (messages, lifeline):
            os.set_inheritable(descriptor, True)
        os.execv(sys.executable, [sys.executable, "-m", "gswa.backends.worker", job, str(messages), str(lifeline)])
    code = 1
    try:
        code = main(job, str(messages), str(lifeline))
    except BaseException:  # noqa: BLE001  (whatever it is, this process must end here)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cuda_is_lost() -> bool:
    """Whether a library has started CUDA through torch all the same: a card then needs a process that loads everything anew."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


if __name__ == "__main__":
    with_bitsandbytes = "--without-bitsandbytes" not in sys.argv
    if not with_bitsandbytes:
        # transformers and peft import it where it is installed, for 2.7 CPU-seconds and 58 MB; only a 4-bit base needs it.
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    serve(socket.socket(fileno=int(sys.argv[1])), [name for name in sys.argv[2:] if not name.startswith("--")], with_bitsandbytes)

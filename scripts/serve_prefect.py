"""Start or stop Prefect's server and one worker on this machine: `make serve-prefect`, `make stop-prefect`.

Their state lies in .prefect/, their address and password in prefect.toml (mode 600), which Prefect reads in any shell
whose current folder is the project's. `prefect server start --background` is not used: it reports success for a server
that died while starting.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from prefect_api import PASSWORD, call, cancel_runs, set_live_runs, worker_answered_since

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".prefect"
STATE = HOME / "serve.json"  # {"url", "server": [pid, started], "worker": [pid, started]}
SETTINGS = ROOT / "prefect.toml"
OURS = "# Written by make serve-prefect, removed by make stop-prefect.\n"
HOST = "127.0.0.1"
USUAL_PORT = 4200
POOL = "gswa-local"
START_SECONDS = 180  # a first start migrates the database: 16 s on an idle machine, 52 s seen on a busy one
STOP_SECONDS = 30  # a training that is under way saves a checkpoint first


def start() -> None:
    if SETTINGS.exists() and not SETTINGS.read_text().startswith(OURS):
        sys.exit(f"{SETTINGS} was not written by make serve-prefect and would be overwritten; move it away first")
    running = alive_url()
    if running is None:
        stop()
        url = start_server(free_port())
        try:
            start_worker(url)
        except BaseException:
            stop()  # a server alone would take runs and start none
            raise
    else:
        url = running
        deploy()
    print(f"Prefect is up: {url} (log in with {PASSWORD.read_text()}); run: {prefect()} deployment run gswa/train-linux")


def stop() -> bool:
    """Whether anything was running. Runs are cancelled first: the worker would kill them outright, and they stay Running for ever."""
    if url := alive_url():
        cancel_runs(url, STOP_SECONDS)
    processes = [process for name in ("worker", "server") if (process := recorded(name)) is not None]
    for process in processes:
        process.terminate()
        if psutil.wait_procs([process], timeout=STOP_SECONDS)[1]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if SETTINGS.exists() and SETTINGS.read_text().startswith(OURS):
        SETTINGS.unlink()
    STATE.unlink(missing_ok=True)
    return bool(processes)


# -- the two processes ---------------------------------------------------------------------------------------------------
def start_server(port: int) -> str:
    """The address of a server that answers."""
    HOME.mkdir(exist_ok=True)
    if not PASSWORD.exists():
        write_private(PASSWORD, f"gswa:{secrets.token_urlsafe(24)}")
    url = f"http://{HOST}:{port}"
    # Without a password and CSRF protection, any page in a browser and any user of this machine could run commands.
    settings = {
        "SERVER_API_HOST": HOST,
        "SERVER_API_PORT": str(port),
        "SERVER_API_AUTH_STRING": PASSWORD.read_text(),
        "SERVER_CSRF_PROTECTION_ENABLED": "true",
        "SERVER_CORS_ALLOWED_ORIGINS": url,
        "UI_API_URL": f"{url}/api",  # or the pages go on calling port 4200
    }
    server = spawn("server", url, {f"PREFECT_{name}": value for name, value in settings.items()}, "server", "start")
    wait_for(lambda: call(f"{url}/api/health") is True, server, "server")
    write_private(SETTINGS, f'{OURS}[api]\nurl = "{url}/api"\nauth_string = "{PASSWORD.read_text()}"\n')
    return url


def start_worker(url: str) -> None:
    """The pool and the deployments exist before the worker asks for work; it answers when this returns."""
    begun = datetime.now(UTC)
    run_prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    deploy()
    # What a killed worker left behind would hold its deployment's one place for ever.
    set_live_runs(url, "CRASHED")
    set_live_runs(url, "CANCELLED")  # those that were being cancelled may end in no other state
    worker = spawn("worker", url, {}, "worker", "start", "--pool", POOL, "--name", "gswa")
    wait_for(lambda: worker_answered_since(url, POOL, begun), worker, "worker")


def deploy() -> None:
    run_prefect("deploy", "--all")


def spawn(name: str, url: str, environment: dict[str, str], *command: str) -> psutil.Process:
    """Start it in a session of its own, and remember it by process id and start time."""
    with (HOME / f"{name}.log").open("w") as log:
        # Started in the background of a shell it would ignore SIGINT, which is how Prefect stops itself on SIGTERM.
        heed_sigint = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  (Popen wants a callable)
        child = subprocess.Popen(
            [prefect(), *command],
            cwd=ROOT,
            env=own_environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=heed_sigint,
        )
    process = psutil.Process(child.pid)
    known = json.loads(STATE.read_text()) if STATE.exists() else {}
    STATE.write_text(json.dumps(known | {"url": url, name: [process.pid, process.create_time()]}))
    return process


def wait_for(ready: Callable[[], bool], process: psutil.Process, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        with contextlib.suppress(OSError, ValueError):  # not listening yet, or not answering in JSON yet
            if ready():
                return
        time.sleep(0.3)
    log = HOME / f"{name}.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    stop()
    sys.exit(f"Prefect's {name} did not start; the end of {log}:\n{tail}")


# -- small questions -----------------------------------------------------------------------------------------------------
def recorded(name: str) -> psutil.Process | None:
    """The process that was started here, if it is still that one."""
    try:
        pid, started = json.loads(STATE.read_text())[name]
        process = psutil.Process(pid)
        return process if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None


def alive_url() -> str | None:
    """The address, if both processes live and the server answers."""
    if recorded("server") is None or recorded("worker") is None or not SETTINGS.exists():
        return None
    url = str(json.loads(STATE.read_text())["url"])
    try:
        return url if call(f"{url}/api/health") is True else None
    except (OSError, ValueError):
        return None


def free_port() -> int:
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    sys.exit("no free port on 127.0.0.1")


def prefect() -> str:
    return str(Path(sys.executable).with_name("prefect"))


def own_environment() -> dict[str, str]:
    """This environment without anybody else's Prefect settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(HOME), "DO_NOT_TRACK": "1"}


def run_prefect(*command: str) -> None:
    """One command of Prefect's; where it fails its own words stand above ours."""
    quiet: dict[str, Any] = {"cwd": ROOT, "env": own_environment(), "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    if subprocess.run([prefect(), "--no-prompt", *command], **quiet).returncode != 0:
        sys.exit(f"prefect {' '.join(command)} failed, see above; Prefect was not started")


def write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:  # noqa: PTH123  (needs the mode at creation)
        out.write(text)


if __name__ == "__main__":
    if sys.argv[1:] == ["start"]:
        start()
    elif sys.argv[1:] == ["stop"]:
        print("Prefect is stopped." if stop() else "Prefect was not running.")
    else:
        sys.exit("usage: serve_prefect.py start|stop")

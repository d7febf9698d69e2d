"""A flow in this process, with or without a Prefect server."""

import signal
import urllib.request
from typing import Any

from prefect import Flow
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings


def run_here(flow: Flow[..., Any], request: Any) -> Any:
    """Run under the configured server where it answers, else under Prefect's own temporary one.

    A server that was stopped by a crash or a reboot leaves its address in prefect.toml; every run would fail with it.
    """
    url = PREFECT_API_URL.value()
    if url and _answers(url):
        return flow(request)
    with temporary_settings({PREFECT_API_URL: None, PREFECT_API_AUTH_STRING: None}):
        _start_temporary_server()
        return flow(request)


def _start_temporary_server() -> None:
    """Ctrl-C reaches every process of the terminal. The server must outlive it, or the flow waits minutes to tell it of its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is blocked here stays blocked in the process that is started
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3) as response:
            return bool(response.status == 200)
    except OSError:
        return False

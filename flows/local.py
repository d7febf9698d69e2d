"""A flow in this process, with or without a Prefect server."""

import os
import subprocess
import sys
import urllib.request
from typing import Any

from prefect import Flow
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings

QUIETLY = ("--host", "127.0.0.1", "--log-level", "error", "--lifespan", "on")
SERVER = """
import os, signal, threading
def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=end_with_parent, daemon=True).start()
from uvicorn.main import main
main()
"""


def run_here(flow: Flow[..., Any], request: Any) -> Any:
    """Run under the configured server where it answers, else under Prefect's own temporary one.

    A server that was stopped by a crash or a reboot leaves its address in prefect.toml; every run would fail with it.
    """
    url = PREFECT_API_URL.value()
    if url and _answers(url):
        return flow(request)
    with temporary_settings({PREFECT_API_URL: None, PREFECT_API_AUTH_STRING: None}):
        _OurServer().start()
        return flow(request)


class _OurServer(SubprocessASGIServer):
    """Prefect's temporary server, which outlives a signal to our group and nothing else of us.

    Ctrl-C and a service manager's SIGTERM reach every process of the group: the flow would wait minutes to tell a dead server
    of its end. Where we are killed there is nobody to end the server: it does so itself at the end of its standard input.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Prefect's own, but for the session and the lifeline."""
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        ours = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", SERVER, "prefect.server.api.server:create_app", "--factory", "--port", str(self.port), *QUIETLY],
            stdin=subprocess.PIPE,  # nothing is written to it
            start_new_session=True,
            env={**os.environ, **ours, **settings},
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3) as response:
            return bool(response.status == 200)
    except OSError:
        return False

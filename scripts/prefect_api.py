"""What scripts/serve_prefect.py asks the server it started: plain HTTP, with the password and against CSRF."""

import base64
import json
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

PASSWORD = Path(__file__).resolve().parents[1] / ".prefect" / "password"
LIVE_RUNS = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}, "deployment_id": {"is_null_": False}}}


def worker_answered_since(url: str, pool: str, begun: datetime) -> bool:
    workers = post(url, f"work_pools/{pool}/workers/filter", {})
    return any(datetime.fromisoformat(worker["last_heartbeat_time"]) >= begun for worker in workers)


def cancel_runs(url: str, seconds: float) -> None:
    """End the worker's runs, each with a checkpoint saved; after `seconds` go on without."""
    set_live_runs(url, "CANCELLING")
    deadline = time.monotonic() + seconds
    while post(url, "flow_runs/filter", LIVE_RUNS) and time.monotonic() < deadline:
        time.sleep(0.5)
    set_live_runs(url, "CANCELLED")


def set_live_runs(url: str, state: str) -> None:
    for run in post(url, "flow_runs/filter", LIVE_RUNS):
        post(url, f"flow_runs/{run['id']}/set_state", {"state": {"type": state, "name": state.capitalize()}})


def post(url: str, path: str, content: dict[str, Any]) -> Any:
    token = call(f"{url}/api/csrf-token?client=serve")["token"]
    headers = {"Prefect-Csrf-Client": "serve", "Prefect-Csrf-Token": token, "Content-Type": "application/json"}
    return call(f"{url}/api/{path}", json.dumps(content).encode(), headers)


def call(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    login = base64.b64encode(PASSWORD.read_bytes()).decode()
    request = urllib.request.Request(url, body, {"Authorization": f"Basic {login}", **(headers or {})})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=5) as answer:
        return json.load(answer)

"""Packages that are not part of the pinned environment: CI installs them beside it and runs their tests there."""

import os
from importlib import import_module
from typing import Any

import pytest


def extra(name: str) -> Any:
    """The module; where it is not installed the test is skipped, but in CI's part for extras, which must not skip any."""
    if os.environ.get("GSWA_EXTRAS"):
        return import_module(name)
    return pytest.importorskip(name, reason=f"{name} is an extra; .ci/run tests it in an environment of its own")

"""The number formats of a machine, measured once."""

import pytest

from gswa import hardware
from gswa.number_formats import with_formats
from gswa.workspace import Workspace


@pytest.mark.backend
def test_the_number_formats_are_measured_once_and_kept(tmp_path):
    workspace = Workspace(tmp_path)
    machine = hardware.probe()
    first = with_formats(machine, workspace)
    assert first.number_formats["fp32"] > 0
    assert with_formats(machine, workspace).number_formats == first.number_formats


def test_a_measurement_of_another_torch_is_made_anew(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.number_formats.parent.mkdir()
    workspace.number_formats.write_text("damaged")
    machine = hardware.probe()
    assert with_formats(machine, workspace, lambda machine: {"fp32": 1.0}).number_formats == {"fp32": 1.0}
    assert with_formats(machine, workspace, lambda machine: {"fp32": 2.0}).number_formats == {"fp32": 1.0}
    newer = machine.model_copy(update={"versions": {"torch": "99"}})
    assert with_formats(newer, workspace, lambda machine: {"fp32": 2.0}).number_formats == {"fp32": 2.0}

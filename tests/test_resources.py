"""GPUs are counted by torch, which is imported only where something hints at one."""

import pytest
import torch

from memo_dist.cluster import resources


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine whose torch would see three GPUs."""
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def pci(machine, vendor):
    path = machine / "sys/bus/pci/devices/0000:00:03.0/vendor"
    path.parent.mkdir(parents=True)
    path.write_text(f"{vendor}\n")


def test_nothing_hints_at_a_gpu(machine, monkeypatch):
    pci(machine, "0x8086")
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert resources.usable_gpus() == 0


@pytest.mark.parametrize("sign", ["dev/nvidiactl", "dev/kfd", "dev/dxg", "proc/driver/nvidia"])
def test_a_node_or_a_driver_is_a_hint(machine, sign):
    (machine / sign).mkdir(parents=True)
    assert resources.usable_gpus() == 3


@pytest.mark.parametrize("vendor", ["0x10de", "0x1002"])
def test_a_card_whose_driver_sleeps_is_a_hint(machine, vendor):
    pci(machine, vendor)
    assert resources.usable_gpus() == 3


def test_a_choice_among_gpus_is_a_hint(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert resources.usable_gpus() == 3

import pytest
import torch

from deepal import room
from deepal.room import Room


def test_small_signals_are_held_in_memory_and_large_ones_in_files_that_nobody_sees(tmp_path):
    like = {"embedding": torch.zeros(2, 3, dtype=torch.bfloat16), "target": torch.zeros(2, dtype=torch.long)}
    for memory in (10**6, 10):
        held = Room(tmp_path, memory).of(5, like)
        assert {name: (tuple(each.shape), each.dtype) for name, each in held.items()} == {
            "embedding": ((5, 3), torch.float32),  # half precision is a way to compute
            "target": ((5,), torch.int64),
        }
        assert all(not each.any() for each in held.values())
        held["embedding"][4] = 1.0
        assert float(held["embedding"].sum()) == 3
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 10**6),
        ({"max": "max", "current": "5", "stat": "inactive_file 3\n"}, 10**6),
        ({"max": "100000", "current": "60000", "stat": "anon 7\ninactive_file 20000\n"}, 60_000),
        ({"max": "100000", "current": "150000", "stat": "inactive_file 1\n"}, 0),
    ],
)
def test_a_container_has_no_more_than_its_share(tmp_path, monkeypatch, files, free):
    monkeypatch.setattr(room, "_SHARE", tmp_path)
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert room._free_of_share(10**6) == free

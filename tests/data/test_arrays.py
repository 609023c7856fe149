"""Arrays in files: mapped, joined once, copied once, and refused by name."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deepal.data import arrays

ROWS = torch.arange(60.0).view(12, 5)


def shards(folder, counts=(3, 4, 2, 2, 0, 1, 0, 0, 0, 0, 0, 0)):
    for number, some in enumerate(ROWS.split(counts)):
        np.save(folder / f"shard-{number}.npy", some.numpy())


def test_one_file_is_mapped_and_not_read(tmp_path):
    np.save(tmp_path / "a.npy", ROWS.numpy())
    array = arrays.read(str(tmp_path / "a.npy"), tmp_path / "cache")
    assert torch.equal(array, ROWS)
    array[0] = 9  # which is nobody's business but ours
    assert torch.equal(arrays.read(str(tmp_path / "a.npy")), ROWS)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors_in_any_precision(tmp_path, dtype):
    save_file({"embedding": ROWS.to(dtype), "probs": ROWS + 1}, tmp_path / "a.safetensors")
    assert torch.equal(arrays.read(f"{tmp_path}/a.safetensors:embedding"), ROWS.to(dtype))
    with pytest.raises(ValueError, match=r"it holds embedding, probs; write a.safetensors:embedding for one"):
        arrays.read(f"{tmp_path}/a.safetensors")
    with pytest.raises(ValueError, match="holds embedding, probs, and no logits"):
        arrays.read(f"{tmp_path}/a.safetensors:logits")
    for number, some in enumerate(ROWS.to(dtype).split(5)):
        save_file({"x": some}, tmp_path / f"b{number}.safetensors")
    assert torch.equal(arrays.read(f"{tmp_path}/b*.safetensors", tmp_path / "cache"), ROWS.to(dtype))


def test_shards_come_by_the_numbers_in_their_names_and_are_joined_once(tmp_path):
    shards(tmp_path)
    cache = tmp_path / "cache"
    assert torch.equal(arrays.read(f"{tmp_path}/shard-*.npy", cache), ROWS)
    (joined,) = cache.iterdir()
    before = joined.stat().st_mtime_ns
    assert torch.equal(arrays.read(f"{tmp_path}/shard-*.npy", cache), ROWS)
    assert joined.stat().st_mtime_ns == before
    np.save(tmp_path / "shard-1.npy", -ROWS[3:7].numpy())
    assert torch.equal(arrays.read(f"{tmp_path}/shard-*.npy", cache)[3:7], -ROWS[3:7])
    assert len(list(cache.iterdir())) == 2


def test_files_from_elsewhere_are_copied_once_and_again_when_they_have_changed(tmp_path, monkeypatch):
    shards(tmp_path)
    memory = fsspec.filesystem("memory")
    for file in tmp_path.glob("*.npy"):
        memory.pipe(f"/pool/{file.name}", file.read_bytes())
    cache, fetched = tmp_path / "cache", []
    original = type(memory).get_file
    monkeypatch.setattr(type(memory), "get_file", lambda *a, **k: (fetched.append(a[1]), original(*a, **k))[1])
    for _ in range(2):
        assert torch.equal(arrays.read("memory://pool/shard-*.npy", cache), ROWS)
    assert len(fetched) == 12
    np.save(tmp_path / "new.npy", -ROWS[:3].numpy())
    memory.pipe("/pool/shard-0.npy", (tmp_path / "new.npy").read_bytes())
    assert torch.equal(arrays.read("memory://pool/shard-*.npy", cache)[:3], -ROWS[:3])
    assert len(fetched) == 13
    with pytest.raises(FileNotFoundError, match="memory://pool/other"):
        arrays.read("memory://pool/other-*.npy", cache)
    with pytest.raises(ValueError, match=r"nowhere://x.npy is an address that fsspec cannot read"):
        arrays.read("nowhere://x.npy", cache)


def test_several_processes_may_join_the_same_shards_at_once(tmp_path):
    shards(tmp_path)
    for _ in range(20):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: arrays.read(f"{tmp_path}/shard-*.npy", tmp_path / "cache"), range(4)))
        assert all(torch.equal(each, ROWS) for each in found)
        assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_with_brackets_in_its_name_is_a_file(tmp_path):
    np.save(tmp_path / "run[2].npy", ROWS.numpy())
    assert torch.equal(arrays.read(f"{tmp_path}/run[2].npy"), ROWS)


def test_rows_by_columns_are_rows(tmp_path):
    for number, some in enumerate(ROWS.split(6)):
        np.save(tmp_path / f"f{number}.npy", np.asfortranarray(some.numpy()))
    assert torch.equal(arrays.read(f"{tmp_path}/f0.npy"), ROWS[:6])
    assert torch.equal(arrays.read(f"{tmp_path}/f*.npy", tmp_path / "cache"), ROWS)


def test_what_cannot_be_read_is_named(tmp_path):
    np.save(tmp_path / "a.npy", ROWS.numpy())
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-9])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    np.save(tmp_path / "number.npy", np.float32(3))
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    (tmp_path / "a.csv").write_text("1,2")
    for name in ("cut.npy", "empty.npy", "cut.safetensors", "number.npy", "objects.npy", "words.npy", "a.csv"):
        with pytest.raises(ValueError, match=name):
            arrays.read(f"{tmp_path}/{name}")
    with pytest.raises(FileNotFoundError, match=r"none\.npy: there is no such file"):
        arrays.read(f"{tmp_path}/none.npy")
    np.save(tmp_path / "a2.npy", ROWS.numpy()[:, :3])
    with pytest.raises(ValueError, match="rows of these 2 files differ"):
        arrays.read(f"{tmp_path}/a*.npy")

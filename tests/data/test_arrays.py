"""Arrays in files: mapped, joined once, copied once, and refused by name."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

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
    with pytest.raises(ValueError, match=r"it holds embedding, probs; write .*a.safetensors:embedding for one"):
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


@pytest.fixture
def server():
    """A server of the files that it has, that says of them what is in `headers`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            body = server.files.get(path)
            self.send_response(server.status.get(path, 200 if body is not None else 404))
            for name, value in {**server.headers, "Content-Length": len(body or b"") + server.lacks}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.headers, server.status, server.lacks = {}, {}, {}, 0
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def saved(rows):
    file = BytesIO()
    np.save(file, rows.numpy())
    return file.getvalue()


def test_what_a_server_has_now_is_read_whether_it_says_that_it_is_new_or_not(tmp_path, server):
    address, cache = f"http://127.0.0.1:{server.server_port}/a.npy?signature=1", tmp_path / "cache"
    for headers in ({}, {"ETag": "one"}):
        server.headers = headers
        for rows in (ROWS, -ROWS) if not headers else (ROWS,):
            server.files["/a.npy"] = saved(rows)
            assert torch.equal(arrays.read(address, cache), rows)
    server.files["/a.npy"] = saved(-ROWS)  # but it says that it is the old one
    assert torch.equal(arrays.read(address, cache), ROWS)
    server.headers = {"ETag": "two"}
    assert torch.equal(arrays.read(address, cache), -ROWS)


def test_a_copy_that_was_damaged_is_made_again(tmp_path, server):
    address, cache = f"http://127.0.0.1:{server.server_port}/a.npy", tmp_path / "cache"
    server.files["/a.npy"], server.headers = saved(ROWS), {"ETag": "one"}
    arrays.read(address, cache)
    (copy,) = cache.iterdir()
    copy.write_bytes(b"")
    left = cache / ".a.partial"
    left.write_bytes(b"of a process that was killed")
    os.utime(left, (0, 0))
    assert torch.equal(arrays.read(address, cache), ROWS)
    assert list(cache.iterdir()) == [copy]
    shards(tmp_path)
    arrays.read(f"{tmp_path}/shard-*.npy", cache)
    (joined,) = cache.glob("*.joined")
    joined.write_bytes(b"short")
    assert torch.equal(arrays.read(f"{tmp_path}/shard-*.npy", cache), ROWS)


def test_what_a_server_does_not_give_is_named_by_its_address(tmp_path, server):
    address = f"http://127.0.0.1:{server.server_port}"
    server.files = {"/a.npy": saved(ROWS), "/cut.npy": saved(ROWS)[:-9], "/forbidden.npy": b"", "/broken.npy": b""}
    server.status = {"/forbidden.npy": 403, "/broken.npy": 500}
    for name in ("cut", "forbidden", "broken", "none"):
        with pytest.raises((OSError, ValueError), match=f"{address}/{name}.npy.* (cannot be read|is not|there is no)"):
            arrays.read(f"{address}/{name}.npy", tmp_path)
    server.lacks = 3
    with pytest.raises(OSError, match=f"{address}/a.npy cannot be read .*; try again"):
        arrays.read(f"{address}/a.npy", tmp_path)
    assert not list(tmp_path.glob("*.partial"))


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

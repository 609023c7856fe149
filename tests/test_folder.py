import os
import signal
import threading
import time

import pytest

from deepal import folder
from deepal.folder import FolderHeldError
from tests.runs import in_process


def hold(path, seconds):
    with folder.held(path):
        (path / "holding").touch()
        time.sleep(seconds)


def test_a_folder_that_another_process_holds_is_refused_until_that_is_dead(tmp_path):
    process = in_process(hold, tmp_path, 60)
    while not (tmp_path / "holding").exists():
        time.sleep(0.01)
    with pytest.raises(FolderHeldError, match=f"process {process.pid}"), folder.held(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with folder.held(tmp_path):
        pass


def test_a_process_does_not_hold_a_folder_twice(tmp_path):
    same = tmp_path / ".." / tmp_path.name
    with folder.held(tmp_path), pytest.raises(FolderHeldError, match="another learner of this process"), folder.held(same):
        pass
    with folder.held(tmp_path):
        pass


def test_who_has_patience_waits_for_another_learner_of_this_process(tmp_path):
    other = threading.Thread(target=hold, args=(tmp_path, 0.5))
    other.start()
    while not (tmp_path / "holding").exists():
        time.sleep(0.01)
    with folder.held(tmp_path, patience=30):
        other.join()


def test_a_file_is_whole_or_not_there(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def half(partial):
        partial.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.write_atomically(file, half)
    assert file.read_text() == "old"
    folder.write_atomically(file, lambda partial: partial.write_text("new"))
    assert file.read_text() == "new"
    assert file.stat().st_dev == tmp_path.stat().st_dev

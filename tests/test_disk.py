"""Stages on disk: whole or absent, resumed after a kill, never taken from somebody else."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from potstill.errors import OutputError
from potstill.ground import disk
from potstill.ground.disk import STAGE_RECORD, StageFolder, fingerprint, free_bytes, read_json, write_json_atomic
from potstill.ground.lock import FolderLock


@dataclass
class Plan:
    depth: int
    names: tuple[str, ...]


class TestFingerprint:
    def test_does_not_depend_on_order_of_keys_or_kind_of_sequence(self):
        assert fingerprint({"a": 1, "b": (2, {3, 4})}) == fingerprint({"b": [2, {4, 3}], "a": 1})

    @pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": None}, [["a", 1]]])
    def test_differs_where_values_differ(self, other):
        assert fingerprint({"a": 1}) != fingerprint(other)

    def test_files_count_by_content_not_by_place(self, tmp_path):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.txt").write_text("same")
        assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
        (tmp_path / "two" / "x.txt").write_text("samf")
        assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")

    def test_dataclasses_arrays_and_integer_keys(self):
        assert fingerprint(Plan(2, ("a",))) == fingerprint({"depth": 2, "names": ["a"]})
        assert fingerprint(np.arange(3)) != fingerprint(np.arange(3).astype("int32"))
        assert fingerprint({2: "b", 1: "a"}) == fingerprint({1: "a", 2: "b"})

    def test_same_in_another_process(self):
        program = "from potstill.ground.disk import fingerprint; print(fingerprint({'a': {'x', 'y', 'z'}}))"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert other.stdout.strip() == fingerprint({"a": {"x", "y", "z"}})

    def test_objects_without_a_stable_form_are_refused(self):
        with pytest.raises(TypeError, match="no stable fingerprint"):
            fingerprint({"a": object()})
        with pytest.raises(TypeError, match="Python objects"):
            fingerprint(np.array([object()]))


class TestWriteJson:
    def test_failure_keeps_the_old_file_and_leaves_nothing_behind(self, tmp_path, monkeypatch):
        path = tmp_path / "record.json"
        write_json_atomic(path, {"old": 1})

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(disk.os, "fsync", full)
        with pytest.raises(OutputError, match="disk is full"):
            write_json_atomic(path, {"new": 2})
        assert read_json(path) == {"old": 1}
        assert [item.name for item in tmp_path.iterdir()] == ["record.json"]


def write_stage(final: Path, text: str, *, fingerprint: str = "f", replace: bool = False) -> None:
    with StageFolder(final, fingerprint, replace=replace) as stage:
        (stage.path / "result.txt").write_text(text)
        stage.finish(notes=["a note"])


def write_half(final: Path, error: BaseException) -> None:
    with StageFolder(final, "f") as stage:
        (stage.path / "half.txt").write_text("half")
        raise error


def interrupt_stage(final: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_half(final, error)


class TestStageFolder:
    def test_finished_folder_appears_whole_with_its_record(self, tmp_path):
        final = tmp_path / "deep" / "stage"
        with StageFolder(final, "f") as stage:
            assert not stage.is_finished()
            (stage.path / "result.txt").write_text("42")
            assert not final.exists()
            stage.finish(notes=["a note"])
            assert stage.is_finished()
            assert stage.path == final
        record = json.loads((final / STAGE_RECORD).read_text())
        assert (record["fingerprint"], record["finished"], record["notes"]) == ("f", True, ["a note"])
        assert record["seconds"] >= 0
        assert sorted(item.name for item in final.parent.iterdir()) == ["stage"]

    def test_finished_folder_is_found_again_and_untouched(self, tmp_path):
        write_stage(tmp_path / "stage", "42")
        with StageFolder(tmp_path / "stage", "f") as stage:
            assert stage.is_finished()
            assert stage.finish()["notes"] == ["a note"]
        assert (tmp_path / "stage" / "result.txt").read_text() == "42"

    def test_interrupted_stage_is_resumed_with_the_same_inputs(self, tmp_path):
        interrupt_stage(tmp_path / "stage", KeyboardInterrupt())
        with StageFolder(tmp_path / "stage", "f") as stage:
            assert stage.is_resumed
            assert (stage.path / "half.txt").read_text() == "half"
            stage.finish()

    def test_what_a_killed_writer_left_half_is_not_kept(self, tmp_path):
        with StageFolder(tmp_path / "stage", "a") as stage:
            (stage.path / "rows").mkdir()
            (stage.path / "rows" / ".manifest.json.123.partial").write_text("{")
            (stage.path / "rows" / "done.txt").write_text("x")
        with StageFolder(tmp_path / "stage", "a") as stage:
            stage.finish()
        assert sorted(path.name for path in (tmp_path / "stage" / "rows").iterdir()) == ["done.txt"]

    def test_interrupted_stage_of_other_inputs_is_cleared(self, tmp_path):
        interrupt_stage(tmp_path / "stage", KeyboardInterrupt())
        with StageFolder(tmp_path / "stage", "g") as stage:
            assert not stage.is_resumed
            assert not (stage.path / "half.txt").exists()

    def test_result_of_other_inputs_is_kept_unless_replaced(self, tmp_path):
        write_stage(tmp_path / "stage", "first")
        with pytest.raises(OutputError, match=r"result of other inputs.*What to do: .*--overwrite"):
            write_stage(tmp_path / "stage", "second", fingerprint="g")
        assert (tmp_path / "stage" / "result.txt").read_text() == "first"
        with StageFolder(tmp_path / "stage", "g", replace=True) as stage:
            (stage.path / "result.txt").write_text("second")
            assert (tmp_path / "stage" / "result.txt").read_text() == "first"
            stage.finish()
        assert (tmp_path / "stage" / "result.txt").read_text() == "second"
        assert [item.name for item in tmp_path.iterdir()] == ["stage"]

    def test_foreign_folder_is_refused_and_an_empty_one_taken(self, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("dear")
        with pytest.raises(OutputError, match="did not write"):
            write_stage(tmp_path / "mine", "42")
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
        (tmp_path / "empty").mkdir()
        write_stage(tmp_path / "empty", "42")
        assert (tmp_path / "empty" / "result.txt").exists()

    @pytest.mark.parametrize("is_whole", [True, False])
    def test_kill_between_the_two_renames_loses_nothing(self, tmp_path, is_whole):
        write_stage(tmp_path / "stage", "first")
        os.rename(tmp_path / "stage", tmp_path / ".stage.old")
        (tmp_path / "stage.partial").mkdir()
        write_json_atomic(tmp_path / "stage.partial" / STAGE_RECORD, {"fingerprint": "g", "finished": is_whole})
        with StageFolder(tmp_path / "stage", "g" if is_whole else "f") as stage:
            assert stage.is_finished()
        assert not (tmp_path / ".stage.old").exists()

    def test_full_disk_is_explained_and_keeps_what_is_whole(self, tmp_path):
        with pytest.raises(OutputError, match=r"disk is full.*kept.*run the same command again"):
            write_half(tmp_path / "stage", OSError(errno.ENOSPC, "No space left on device"))
        assert (tmp_path / "stage.partial" / "half.txt").exists()

    def test_file_in_the_way_is_explained(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="file where a folder is needed"):
            write_stage(tmp_path / "file" / "stage", "42")

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
    def test_missing_permission_is_explained(self, tmp_path):
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="may not be written"):
            write_stage(tmp_path / "closed" / "stage", "42")

    def test_missing_permission_is_explained_whoever_runs_it(self, tmp_path, monkeypatch):
        def closed(*arguments, **options):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

        monkeypatch.setattr(Path, "mkdir", closed)
        with pytest.raises(OutputError, match=r"may not be written.*What to do: choose another output folder"):
            write_stage(tmp_path / "stage", "42")


WAITING_WRITER = """
import sys, time
from pathlib import Path
from potstill.ground.disk import StageFolder
with StageFolder(Path(sys.argv[1]), "f") as stage:
    (stage.path / "half.txt").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_second_writer_is_refused_and_a_killed_one_taken_over(self, tmp_path):
        final = tmp_path / "stage"
        writer = subprocess.Popen([sys.executable, "-c", WAITING_WRITER, str(final)], stdout=subprocess.PIPE, text=True)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline().strip() == "ready"
            with pytest.raises(OutputError, match=rf"being written by process {writer.pid}"):
                StageFolder(final, "f").__enter__()
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait(timeout=10)
        time.sleep(0.05)
        with StageFolder(final, "f") as stage:
            assert stage.is_resumed
            assert (stage.path / "half.txt").read_text() == "half"
            stage.finish()
        assert [item.name for item in tmp_path.iterdir()] == ["stage"]

    def test_lock_file_that_was_left_behind_holds_nothing(self, tmp_path):
        (tmp_path / ".stage.lock").write_text(f"{os.getpid()}\nhere\n")
        write_stage(tmp_path / "stage", "42")

    def test_second_writer_may_wait(self, tmp_path):
        first, second = FolderLock(tmp_path / "stage"), FolderLock(tmp_path / "stage")
        first.acquire()
        with pytest.raises(OutputError, match=rf"being written by process {os.getpid()} on "):
            second.acquire(timeout_seconds=0.1)
        waiting = threading.Thread(target=lambda: (second.acquire(timeout_seconds=-1), second.release()))
        waiting.start()
        first.release()
        waiting.join(timeout=10)
        assert not list(tmp_path.iterdir())

    def test_lock_is_given_back_when_entering_fails(self, tmp_path):
        write_stage(tmp_path / "stage", "first")
        with pytest.raises(OutputError):
            write_stage(tmp_path / "stage", "second", fingerprint="g")
        assert not (tmp_path / ".stage.lock").exists()


def test_free_bytes_of_a_place_that_does_not_exist_yet(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.2)

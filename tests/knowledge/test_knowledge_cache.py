"""Laws of the knowledge cache: it equals the live teacher, notices damage, and survives being killed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_teacher import Rows, collate, make_bert

from potstill.errors import CacheError, NeedsError, OutputError
from potstill.ground.disk import STAGE_RECORD
from potstill.knowledge import cache_store
from potstill.knowledge.cache import CachedTeacher, Fingerprints, estimate, measure_seconds_per_row, write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.models.taps import TapReader


@pytest.fixture
def live(bert):
    return LiveTeacher(bert, dtype="float32")


def write(live, rows, folder, **options):
    return write_cache(live, rows, collate, folder, **({"batch_size": 4, "shard_rows": 8} | options))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files but the stage record, which holds the time taken."""
    return {item.name: item.read_bytes() for item in sorted(folder.iterdir()) if item.name != STAGE_RECORD}


def shuffled_batches(rows, seed=1, size=7):
    order = np.random.default_rng(seed).permutation(len(rows))
    for start in range(0, len(rows), size):
        yield collate([rows[int(index)] for index in order[start : start + size]])


class TestCachedEqualsLive:
    def test_exactly_for_the_batches_it_was_written_with(self, live, rows, tmp_path):
        asked = {}

        class Remembering(LiveTeacher):
            def signal(self, batch, needs=("logits",)):
                answer = super().signal(batch, needs)
                asked.update(zip(batch["row_id"].tolist(), answer.logits.numpy()))
                return answer

        write(Remembering(live.model, dtype="float32"), rows, tmp_path / "cache")
        cached = CachedTeacher.open(tmp_path / "cache")
        for batch in shuffled_batches(rows):
            expected = np.stack([asked[row] for row in batch["row_id"].tolist()])
            np.testing.assert_array_equal(cached.signal(batch).logits.numpy(), expected)

    @pytest.mark.parametrize("whole_bytes", [0, 1 << 20])
    def test_under_shuffle_and_other_batches(self, live, rows, tmp_path, monkeypatch, whole_bytes):
        monkeypatch.setattr(cache_store, "READ_WHOLE_BYTES", whole_bytes)
        write(live, rows, tmp_path / "cache")
        cached = CachedTeacher.open(tmp_path / "cache")
        assert len(cached) == len(rows)
        for batch in shuffled_batches(rows):
            # Another padding reorders sums in the last bit; nothing more.
            torch.testing.assert_close(cached.signal(batch).logits, live.signal(batch).logits, rtol=1e-5, atol=1e-5)

    def test_hidden_values_with_their_padding(self, live, rows, tmp_path):
        needs = ("logits", "hidden:1", "hidden:-1")
        write(live, rows, tmp_path / "cache", needs=needs)
        cached = CachedTeacher.open(tmp_path / "cache")
        for batch in shuffled_batches(rows):
            kept, asked = cached.signal(batch, needs), live.signal(batch, needs)
            assert kept.token_mask is not None
            for need in needs[1:]:
                mask = batch["attention_mask"][..., None]
                torch.testing.assert_close(kept.taps[need], asked.taps[need] * mask, rtol=1e-5, atol=1e-5)

    def test_half_precision_is_close_and_given_back_in_single(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache", dtype="float16")
        for batch in shuffled_batches(rows):
            logits = CachedTeacher.open(tmp_path / "cache").signal(batch).logits
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits, live.signal(batch).logits, rtol=1e-3, atol=1e-3)

    def test_states_of_whole_rows_in_half_precision_beside_exact_logits(self, live, rows, tmp_path):
        reader = LiveTeacher(live.model, TapReader(), dtype="float32")
        needs = ("logits", "mean:1", "mean:2")
        write(reader, rows, tmp_path / "both", needs=needs, tap_dtype="float16")
        write(live, rows, tmp_path / "alone")
        both, alone = CachedTeacher.open(tmp_path / "both"), CachedTeacher.open(tmp_path / "alone")
        assert np.load(tmp_path / "both" / "mean_1-00000.npy").dtype == np.float16
        for batch in shuffled_batches(rows):
            kept, asked = both.signal(batch, needs), reader.signal(batch, needs)
            torch.testing.assert_close(kept.logits, alone.signal(batch).logits, rtol=1e-5, atol=1e-6)
            for need in needs[1:]:
                assert kept.taps[need].dtype == torch.float32
                torch.testing.assert_close(kept.taps[need], asked.taps[need], rtol=1e-3, atol=1e-3)

    def test_a_cache_of_before_values_had_a_dtype_of_their_own(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache", dtype="float16", needs=("logits", "hidden:1"))
        manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
        assert manifest.pop("tap_dtype") == ""
        (tmp_path / "cache" / "manifest.json").write_text(json.dumps(manifest))
        cached = CachedTeacher.open(tmp_path / "cache")
        assert cached.manifest.dtype_of("hidden:1") == np.float16
        assert len(cached) == len(rows)

    def test_after_pickling(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        cached = CachedTeacher.open(tmp_path / "cache")
        batch = next(shuffled_batches(rows))
        again = pickle.loads(pickle.dumps(cached))
        assert torch.equal(again.signal(batch).logits, cached.signal(batch).logits)

    def test_repeated_rows_in_a_batch(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        cached = CachedTeacher.open(tmp_path / "cache")
        ids = torch.tensor([rows.row_ids[3], rows.row_ids[0], rows.row_ids[3]])
        logits = cached.signal({"row_id": ids}).logits
        assert (logits[0] == logits[2]).all()
        assert (logits[0] != logits[1]).any()

    def test_what_it_gives_is_the_callers_own(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        cached, batch = CachedTeacher.open(tmp_path / "cache"), next(shuffled_batches(rows))
        before = cached.signal(batch).logits.clone()
        cached.signal(batch).logits.zero_()
        assert torch.equal(cached.signal(batch).logits, before)


class TestRefusals:
    @pytest.mark.parametrize("name", ["teacher", "processor", "data"])
    def test_something_else_is_named(self, live, rows, tmp_path, name):
        write(live, rows, tmp_path / "cache", processor_fingerprint="tokens")
        held = {"teacher": live.fingerprint, "processor": "tokens", "data": rows.fingerprint}
        CachedTeacher.open(tmp_path / "cache", Fingerprints(**held))
        with pytest.raises(CacheError, match=rf"does not belong to this run: its (tokenizer|{name}).*'?other"):
            CachedTeacher.open(tmp_path / "cache", Fingerprints(**(held | {name: "other"})))

    def test_every_damaged_byte_is_noticed(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        for file in sorted((tmp_path / "cache").glob("*.npy")):
            whole = file.read_bytes()
            for place in (0, len(whole) // 2, len(whole) - 1):
                damaged = bytearray(whole)
                damaged[place] ^= 1
                file.write_bytes(damaged)
                with pytest.raises(CacheError, match=rf"damaged: {file.name} has changed"):
                    CachedTeacher.open(tmp_path / "cache")
            file.write_bytes(whole)
        CachedTeacher.open(tmp_path / "cache")

    def test_missing_shard_and_missing_cache(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        (tmp_path / "cache" / "logits-00002.npy").unlink()
        with pytest.raises(CacheError, match=r"logits-00002.npy is missing"):
            CachedTeacher.open(tmp_path / "cache")
        with pytest.raises(CacheError, match="no knowledge cache at"):
            CachedTeacher.open(tmp_path / "nowhere")

    def test_unknown_rows_are_named(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        cached = CachedTeacher.open(tmp_path / "cache")
        with pytest.raises(CacheError, match=r"lacks 2 of the rows asked for: -1, 99999"):
            cached.signal({"row_id": torch.tensor([-1, int(rows.row_ids[0]), 99999])})

    def test_values_that_were_not_kept(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        cached = CachedTeacher.open(tmp_path / "cache")
        assert cached.can_provide("logits")
        assert not cached.can_provide("hidden:1")
        with pytest.raises(NeedsError, match=r"hidden:1.*use the live teacher"):
            cached.signal(next(shuffled_batches(rows)), ("logits", "hidden:1"))

    def test_values_over_the_budget_tell_the_arithmetic(self, live, rows, tmp_path):
        with pytest.raises(CacheError, match=r"hidden:1: 50 rows × [\d.]+ tokens × 16 values × 4 bytes = .*at most 1000 B"):
            write(live, rows, tmp_path / "cache", needs=("logits", "hidden:1"), tap_budget_bytes=1000)
        assert not (tmp_path / "cache").exists()

    def test_values_that_no_cache_holds(self, live, rows, tmp_path):
        class Anything(LiveTeacher):
            def can_provide(self, need):
                return True

        with pytest.raises(CacheError, match=r"does not hold attention:1.*live teacher"):
            write(Anything(live.model), rows, tmp_path / "cache", needs=("attention:1",))

    def test_rows_with_infinite_logits_are_named(self, live, rows, tmp_path):
        bad = int(rows.row_ids[17])

        class Broken(LiveTeacher):
            def signal(self, batch, needs=("logits",)):
                answer = super().signal(batch, needs)
                answer.logits[batch["row_id"] == bad] = float("nan")
                return answer

        with pytest.raises(CacheError, match=rf"NaN or infinite logits of 1 row \(row ids {bad}\)"):
            write(Broken(live.model, dtype="float32"), rows, tmp_path / "cache")

    def test_logits_too_large_for_half_precision(self, live, rows, tmp_path):
        live.model.classifier.weight.data.mul_(1e7)
        with pytest.raises(CacheError, match=r"too large for float16.*float32"):
            write(live, rows, tmp_path / "cache", dtype="float16")

    def test_doubled_row_ids_no_rows_and_unknown_dtype(self, live, rows, tmp_path):
        with pytest.raises(CacheError, match="cannot hold 'int8'"):
            write(live, rows, tmp_path / "cache", dtype="int8")
        rows.row_ids[1] = rows.row_ids[0]
        with pytest.raises(CacheError, match=rf"more than once: {rows.row_ids[0]}"):
            write(live, rows, tmp_path / "cache")
        with pytest.raises(CacheError, match="no rows"):
            write(live, Rows(0), tmp_path / "cache")

    def test_cache_of_another_teacher_is_not_overwritten(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache")
        before = bytes_of(tmp_path / "cache")
        other = LiveTeacher(make_bert(seed=5), dtype="float32")
        with pytest.raises(OutputError, match="result of other inputs"):
            write(other, rows, tmp_path / "cache")
        assert bytes_of(tmp_path / "cache") == before
        write(other, rows, tmp_path / "cache", replace_other=True)
        assert CachedTeacher.open(tmp_path / "cache").fingerprint == other.fingerprint


class Interrupting(LiveTeacher):
    """Raises at one of its calls, and counts them."""

    calls = 0
    at = -1

    def signal(self, batch, needs=("logits",)):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().signal(batch, needs)


KILLED_WRITER = """
import os, signal, sys
from tiny_teacher import Rows, collate, make_bert
from potstill.knowledge.cache import write_cache
from potstill.knowledge.live import LiveTeacher

def progress(done, total):
    if done >= 30:
        os.kill(os.getpid(), signal.SIGKILL)

teacher = LiveTeacher(make_bert(), dtype="float32")
write_cache(teacher, Rows(), collate, sys.argv[1], batch_size=4, shard_rows=8, progress=progress)
"""


class TestResume:
    @pytest.mark.parametrize("at", [1, 5, 12])
    def test_interrupted_writing_goes_on_and_ends_with_the_same_bytes(self, bert, rows, tmp_path, at):
        teacher = Interrupting(bert, dtype="float32")
        write(teacher, rows, tmp_path / "whole")
        calls_in_all, teacher.calls, teacher.at = teacher.calls, 0, at
        with pytest.raises(KeyboardInterrupt):
            write(teacher, rows, tmp_path / "cache")
        assert not (tmp_path / "cache").exists()
        teacher.calls, teacher.at = 0, -1
        write(teacher, rows, tmp_path / "cache")
        assert bytes_of(tmp_path / "cache") == bytes_of(tmp_path / "whole")
        assert teacher.calls == calls_in_all - 2 * ((at - 1) // 2)

    def test_killed_process(self, live, rows, tmp_path):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "cache")],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": str(torch.get_num_threads())},
            timeout=120,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert (tmp_path / "cache.partial" / "logits-00002.npy").exists()
        write(live, rows, tmp_path / "cache")
        write(live, rows, tmp_path / "whole")
        assert bytes_of(tmp_path / "cache") == bytes_of(tmp_path / "whole")

    def test_shard_that_was_damaged_meanwhile_is_written_anew(self, bert, rows, tmp_path):
        teacher = Interrupting(bert, dtype="float32")
        write(teacher, rows, tmp_path / "whole")
        teacher.calls, teacher.at = 0, 12
        with pytest.raises(KeyboardInterrupt):
            write(teacher, rows, tmp_path / "cache")
        (tmp_path / "cache.partial" / "logits-00001.npy").write_bytes(b"half")
        teacher.at = -1
        write(teacher, rows, tmp_path / "cache")
        assert bytes_of(tmp_path / "cache") == bytes_of(tmp_path / "whole")

    def test_finished_cache_is_not_asked_again(self, bert, rows, tmp_path):
        teacher = Interrupting(bert, dtype="float32")
        write(teacher, rows, tmp_path / "cache")
        teacher.calls = 0
        write(teacher, rows, tmp_path / "cache")
        assert teacher.calls == 0

    def test_full_disk_keeps_the_whole_shards(self, live, rows, tmp_path, monkeypatch):
        write(live, rows, tmp_path / "whole")
        real_save = np.save

        def save(stream, array, **options):
            if "logits-00003" in stream.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            real_save(stream, array, **options)

        monkeypatch.setattr(cache_store.np, "save", save)
        with pytest.raises(OutputError, match=r"disk is full.*What to do: free some space and run the same command again"):
            write(live, rows, tmp_path / "cache")
        assert len(list((tmp_path / "cache.partial").glob("logits-*.npy"))) == 3
        assert not list((tmp_path / "cache.partial").glob(".*.partial"))
        monkeypatch.undo()
        write(live, rows, tmp_path / "cache")
        assert bytes_of(tmp_path / "cache") == bytes_of(tmp_path / "whole")

    def test_progress_ends_at_all_rows(self, live, rows, tmp_path):
        told = []
        write(live, rows, tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
        assert told[-1] == (50, 50)
        assert told == sorted(told)


class TestEstimate:
    def test_bytes_are_what_the_disk_holds(self, live, rows, tmp_path):
        write(live, rows, tmp_path / "cache", shard_rows=64)
        held = sum(item.stat().st_size for item in (tmp_path / "cache").glob("*.npy"))
        headers = 128 * 3
        assert estimate(len(rows), 3, passes=2).bytes == held - headers

    def test_one_pass_does_not_pay(self):
        assert estimate(100, 2, passes=1, seconds_per_row=1.0).seconds_saved == 0
        assert estimate(100, 2, passes=4, seconds_per_row=1.0).seconds_saved == 300

    def test_speed_is_measured(self, live, rows):
        started = time.perf_counter()
        seconds = measure_seconds_per_row(live, rows, collate)
        assert 0 < seconds * len(rows) <= time.perf_counter() - started

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune.errors import StorageError, UsageError
from edgeprune.records.folder import MARK, claim, key_of
from edgeprune.records.run import Environment, ModelRecord, Run

ABOUT = Environment("0.1.0", "3.12", "2.9", "1.19", "1.23", "0.5", "Linux x86_64", "cpu", 2, (), 0)
RUN = Run(ModelRecord("net", "a:b", "00", (), ()), ABOUT)
KEY = {"the model's weights": "aa", "the settings": "bb"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


@pytest.fixture
def started(path: Path) -> Path:
    """The folder of a run whose first stage is finished."""
    with claim(path, RUN, KEY) as folder:
        with folder.stage("shrink"):
            folder.update(warnings=("careful",))
        (path / "plan.json").write_text("{}")
        (folder.log("export") / "plain.onnx").write_text("bytes")
    return path


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_new_folder_is_made_with_its_parents_and_holds_what_is_known(path: Path) -> None:
    with claim(path, RUN, KEY) as folder:
        assert folder.run == RUN
        assert not folder.finished("shrink")
        with folder.stage("shrink"):
            assert not folder.finished("shrink"), "a stage is finished when it is over"
        assert folder.finished("shrink")
    saved = Run.load(path)
    assert list(saved.seconds) == ["shrink"]
    assert saved.seconds["shrink"] >= 0
    assert dataclasses.replace(saved, seconds={}) == RUN


def test_every_update_is_on_the_disk_at_once(path: Path) -> None:
    with claim(path, RUN, KEY) as folder:
        folder.update(warnings=("one",))
        assert Run.load(path).warnings == ("one",)
        with folder.stage("trace"):
            pass


def test_a_stage_that_fails_is_not_finished_and_those_before_it_stay(path: Path) -> None:
    def run() -> None:
        with claim(path, RUN, KEY) as folder:
            with folder.stage("shrink"):
                pass
            with folder.stage("export"):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert list(Run.load(path).seconds) == ["shrink"]


def test_the_same_run_is_resumed_where_it_stopped(started: Path) -> None:
    with claim(started, RUN, dict(KEY)) as folder:
        assert folder.finished("shrink")
        assert folder.run.warnings == ("careful",)
        with folder.stage("export"):
            pass
    assert list(Run.load(started).seconds) == ["shrink", "export"]
    assert (started / "plan.json").exists()


def test_whoever_has_no_key_takes_up_what_lies_there(started: Path, tmp_path: Path) -> None:
    mark = (started / MARK).read_text()
    with claim(started, RUN, None) as folder:
        assert folder.finished("shrink")
    assert (started / MARK).read_text() == mark
    with pytest.raises(UsageError, match="there is no run here"), claim(tmp_path / "empty", RUN, None):
        pass


def test_another_key_is_refused_with_what_differs(started: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"holds a run that differs in the settings; .*--overwrite"),
        claim(started, RUN, {**KEY, "the settings": "cc"}),
    ):
        pass
    assert Run.load(started).warnings == ("careful",)
    assert json.loads((started / MARK).read_text()) == {"key": KEY}


def test_random_weights_are_guessed_at(started: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"differs in the model's weights \(random ones"),
        claim(started, RUN, {**KEY, "the model's weights": "xx"}),
    ):
        pass


@pytest.mark.parametrize("key", [KEY, {**KEY, "the settings": "cc"}])
def test_overwriting_starts_anew_and_leaves_what_runs_do_not_write(
    started: Path, key: dict[str, str]
) -> None:
    (started / "notes.txt").write_text("mine")
    (started / "counterexample.npz").write_text("old")
    with claim(started, RUN, key, overwrite=True) as folder:
        assert folder.run == RUN
        assert names(started) == {MARK, ".lock", "notes.txt"}
        with folder.stage("shrink"):
            pass
    assert json.loads((started / MARK).read_text()) == {"key": key}


def test_a_damaged_record_is_not_resumed(started: Path) -> None:
    (started / "run.json").write_text("{ half")
    with claim(started, RUN, KEY) as folder:
        assert folder.run == RUN
        assert not (started / "plan.json").exists(), "what a damaged run left cannot be trusted"
        with folder.stage("shrink"):
            pass


@pytest.mark.parametrize("mark", ["", "{}", "[]", '{"key": 3}', "\x00"])
def test_a_damaged_mark_fits_no_key(started: Path, mark: str) -> None:
    (started / MARK).write_text(mark)
    with pytest.raises(UsageError, match="--overwrite"), claim(started, RUN, KEY):
        pass


def test_a_run_that_finished_nothing_leaves_nothing_behind(path: Path) -> None:
    def run() -> None:
        with claim(path, RUN, KEY) as folder:
            folder.update(warnings=("too early",))
            folder.log("export")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not path.exists()


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(UsageError, match="not the folder of a run"),
        claim(tmp_path, RUN, KEY, overwrite=True),
    ):
        pass
    assert names(tmp_path) == {"thesis.tex"}


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="out: is a file; name a folder"), claim(tmp_path / "out", RUN, KEY):
        pass
    with pytest.raises(StorageError, match="cannot be made"), claim(tmp_path / "out" / "deeper", RUN, KEY):
        pass


def test_an_empty_folder_and_one_that_was_only_locked_are_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()  # what a run leaves that is killed in its first moment
    with claim(tmp_path, RUN, KEY) as folder, folder.stage("shrink"):
        pass
    assert Run.load(tmp_path).seconds


HOLDER = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).resolve().parent)!r}]
from test_folder import KEY, RUN
from edgeprune.records.folder import claim
with claim(Path(sys.argv[1]), RUN, KEY) as folder:
    folder.update(seconds={{"shrink": 1.0}})
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is at work in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_process_at_a_time(path: Path, holder: subprocess.Popen[str]) -> None:
    for overwrite in (False, True):
        with (
            pytest.raises(UsageError, match="another run is writing there"),
            claim(path, RUN, KEY, overwrite=overwrite),
        ):
            pass
    assert list(Run.load(path).seconds) == ["shrink"], "the other run's work is untouched"


def test_the_lock_dies_with_its_process(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with claim(path, RUN, KEY) as folder:
        assert folder.finished("shrink")


def test_two_claims_in_one_process_exclude_each_other_too(path: Path) -> None:
    with claim(path, RUN, KEY) as folder, folder.stage("shrink"):
        with pytest.raises(UsageError, match="another run is writing there"), claim(path, RUN, KEY):
            pass
        assert path.is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match="cannot be written to"), claim(tmp_path, RUN, KEY):
        pass


def test_stages_can_be_forgotten(started: Path) -> None:
    with claim(started, RUN, KEY) as folder:
        folder.forget(["shrink", "never made"])
        assert not folder.finished("shrink")
        with folder.stage("export"):
            pass
    assert list(Run.load(started).seconds) == ["export"]


def test_a_key_is_a_digest_that_knows_no_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of({})) == 64

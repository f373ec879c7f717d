from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.errors import StorageError
from edgeprune.search.store import Store, key


def test_what_was_put_is_got_by_what_it_was_made_from(tmp_path: Path):
    store = Store(tmp_path)
    store.put(key("net", width=3), {"error": 0.5}, {"a.bin": b"abc"})
    entry = store.get(key("net", width=3), ["a.bin"])
    assert entry is not None
    assert entry.content == {"error": 0.5}
    assert entry.path("a.bin").read_bytes() == b"abc"
    assert store.get(key("net", width=4)) is None
    assert store.get(key("other", width=3)) is None


def test_a_damaged_entry_is_made_again(tmp_path: Path):
    store, name = Store(tmp_path), key("net")
    entry = store.put(name, {"error": 1.0}, {"a.bin": b"abc"})
    entry.path("a.bin").write_bytes(b"abX")
    assert store.get(name, ["a.bin"]) is None
    store.put(name, {"error": 1.0}, {"a.bin": b"abc"})
    assert store.get(name, ["a.bin"]) is not None
    (entry.folder / "entry.json").write_text("{", encoding="utf-8")
    assert store.get(name) is None


def test_a_file_that_was_dropped_leaves_what_was_found(tmp_path: Path):
    store, name = Store(tmp_path), key("net")
    store.put(name, {"error": 1.0}, {"a.bin": b"abc"})
    store.drop(name, ["a.bin"])
    assert store.get(name) is not None
    assert store.get(name, ["a.bin"]) is None


def test_nothing_half_written_is_seen(tmp_path: Path):
    store = Store(tmp_path)
    with pytest.raises(StorageError):
        store.put(key("net"), {}, {"a.bin": tmp_path / "missing"})
    assert store.get(key("net")) is None
    assert not list(tmp_path.rglob(".part-*"))


def test_the_first_of_two_makers_wins(tmp_path: Path):
    store, name = Store(tmp_path), key("net")
    store.put(name, {"by": 1}, {"a.bin": b"abc"})
    store.put(name, {"by": 2}, {"a.bin": b"abc"})
    entry = store.get(name)
    assert entry is not None
    assert entry.content == {"by": 1}


def test_numbers_that_are_none_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).put(key("net"), {"error": float("nan")}, {})
    assert json.loads("{}") == {}

"""The replay store: bounded, balanced, its held-out part stable, deletable, private."""

from __future__ import annotations

import random
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pockgraph.errors import LearnerError
from pockgraph.runtime.learner.database import Database
from pockgraph.runtime.learner.replay import Replay, Rooms, is_held_out

RATIO = 0.3


class Store:
    """A store in a file of its own, in which samples hold their own number."""

    def __init__(self, folder: Path, samples: int, seed: int = 0, name: str = "learner.db") -> None:
        self.rooms = Rooms.of(samples, RATIO, 0.25)
        self.database = Database(folder / name)
        self.replay = Replay(self.database, self.rooms, RATIO, seed)

    def add(self, key: str, kind: str, value: int = 0) -> None:
        with self.database.transaction() as write:
            self.replay.add(write, key, kind, {"x": np.full(3, value, np.float32), "y": np.int64(value)})

    def rows(self, where: str = "1") -> list[sqlite3.Row]:
        return self.database.read(f"SELECT * FROM samples WHERE {where} ORDER BY id")


@given(
    st.integers(8, 30),
    st.lists(st.tuples(st.sampled_from("aaaaaaabbc"), st.sampled_from("++++++-")), max_size=90),
    st.integers(0, 3),
)
def test_the_store_is_bounded_and_balanced_and_keeps_the_newest(
    tmp_path_factory: pytest.TempPathFactory, samples: int, changes: list[tuple[str, str]], seed: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"), samples, seed)
    draw = random.Random(seed)
    present: list[str] = []  # not deleted, in the order of arrival
    held_out: dict[str, int] = {}
    deleted = False
    for number, (kind, what) in enumerate(changes):
        if what == "-" and present:
            key = present.pop(draw.randrange(len(present)))
            with store.database.transaction() as write:
                store.replay.delete(write, key)
            assert not store.rows(f"key = '{key}'")
            deleted = True
        else:
            present.append(f"{kind}{number}")
            store.add(present[-1], kind, number)
        rows = store.rows()
        assert len(rows) <= samples
        assert {r["key"] for r in rows} <= set(present)
        for row in rows:  # a sample never changes sides
            assert held_out.setdefault(row["key"], row["held_out"]) == row["held_out"]
            assert row["held_out"] == is_held_out(row["key"], RATIO)
    for part in (0, 1):
        newest = [k for k in present if is_held_out(k, RATIO) == part]
        kept = {r["key"] for r in store.rows(f"held_out = {part}")}
        recent = [r["key"] for r in store.rows(f"held_out = {part} AND recent = 1")]
        assert len(recent) <= store.rooms.recent[part]
        assert recent == newest[len(newest) - len(recent) :]
        if deleted:
            continue
        assert recent == newest[-store.rooms.recent[part] :]
        others = newest[: len(newest) - len(recent)]
        room = store.rooms.reservoir[part]
        assert len(kept) - len(recent) == min(len(others), room)  # a place is never left free
        came = {c: sum(k[0] == c for k in others) for c in "abc"}
        stays = {c: sum(k[0] == c for k in kept.difference(recent)) for c in "abc"}
        if room >= 3:
            for c in "abc":  # a class that is smaller than another one has lost nothing
                assert stays[c] == came[c] or stays[c] >= max(stays.values()) - 1, (came, stays)
    store.database.close()


def test_each_sample_of_a_class_is_as_likely_to_be_kept(tmp_path: Path) -> None:
    times = np.zeros(60)
    for seed in range(15):
        store = Store(tmp_path, 20, seed, f"{seed}.db")
        with store.database.transaction() as write:
            for number in range(60):
                key = next(k for i in range(99) if not is_held_out(k := f"{number}-{i}", RATIO))
                store.replay.add(write, key, "a", {"y": np.int64(number)})
        for row in store.rows("recent = 0"):
            times[int(row["key"].partition("-")[0])] += 1
        store.database.close()
    early, late = times[:28].sum(), times[28:56].sum()
    assert early + late == 15 * store.rooms.reservoir[0]
    assert abs(early - late) < 4 * np.sqrt(early + late)


def test_a_correction_replaces_the_earlier_sample(tmp_path: Path) -> None:
    store = Store(tmp_path, 20)
    for value, kind in ((1, "a"), (2, "b")):
        store.add("same", kind, value)
    (row,) = store.rows()
    assert row["class"] == "b"
    (sample,) = store.replay.load([row["id"]]).values()
    assert sample["y"] == 2
    assert sample["y"].shape == ()
    assert sample["x"].dtype == np.float32
    assert sample["x"].tolist() == [2, 2, 2]


def test_nothing_of_a_deleted_sample_is_left_in_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path, 20)
    secret = np.frombuffer(b"a secret of somebody" * 200, np.uint8)

    def found() -> bool:
        return any(b"a secret" in p.read_bytes() for p in tmp_path.iterdir())

    with store.database.transaction() as write:
        store.replay.add(write, "k", "a", {"x": secret})
    assert found()
    with store.database.transaction() as write:
        assert store.replay.delete(write, "k")
        assert not store.replay.delete(write, "k")
    store.database.wipe_log()
    assert not found()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "learner.db").touch(0o666)
    store = Store(tmp_path, 20)
    store.add("k", "a")
    assert {p.name for p in tmp_path.iterdir()} >= {"learner.db", "learner.db-wal"}
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_store_with_less_room_keeps_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path, 40)
    for number in range(60):
        store.add(f"{number}", "aab"[number % 3], number)
    store.database.close()
    store = Store(tmp_path, 12)
    with store.database.transaction() as write:
        store.replay.settle(write)
    assert len(store.rows()) == 12
    classes = [r["class"] for r in store.rows("recent = 0 AND held_out = 0")]
    assert abs(classes.count("a") - classes.count("b")) <= 1


def test_batches_are_half_of_the_newest_and_full_with_few_samples(tmp_path: Path) -> None:
    store = Store(tmp_path, 20)
    draw = random.Random(0)
    with pytest.raises(LearnerError, match="no sample"):
        store.replay.draw(4, draw)
    keys = [k for i in range(99) if not is_held_out(k := str(i), RATIO)]
    store.add(keys[0], "a")
    assert store.replay.draw(4, draw) == [1, 1, 1, 1]
    for key in keys[1:30]:
        store.add(key, "a")
    recent = {r["id"] for r in store.rows("recent = 1 AND held_out = 0")}
    numbers = store.replay.draw(6, draw)
    assert len(set(numbers)) == 6
    assert len(recent.intersection(numbers)) == 3


def test_other_files_and_damaged_ones_are_refused_in_a_paragraph(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(LearnerError, match="no learner's file"):
        Database(other)
    (tmp_path / "text.db").write_text("not a database at all, but longer than a header " * 9)
    with pytest.raises(LearnerError, match="another program's"):
        Database(tmp_path / "text.db")
    store = Store(tmp_path, 20)
    store.add("k", "a")
    with store.database.transaction() as write:
        write.execute("UPDATE arrays SET shape = '4' WHERE name = 'x'")
    with pytest.raises(LearnerError, match="3 elements instead of 4"):
        store.replay.load([1])
    with store.database.transaction() as write:
        write.execute("UPDATE arrays SET dtype = 'object'")
    with pytest.raises(LearnerError, match="'x' of sample 1 cannot be read"):
        store.replay.load([1])
    store.database.close()
    with sqlite3.connect(tmp_path / "learner.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LearnerError, match="Upgrade"):
        Database(tmp_path / "learner.db")


def test_a_file_that_is_gone_takes_no_more_samples(tmp_path: Path) -> None:
    store = Store(tmp_path, 20)
    (tmp_path / "learner.db").rename(tmp_path / "moved.db")
    with pytest.raises(LearnerError, match="deleted, moved or replaced"):
        store.add("k", "a")

"""The file under a study: whole or absent, durable, shared, and refused when it is something else."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pockgraph.errors import StudyError
from pockgraph.store import store as store_module
from pockgraph.store.store import MIGRATIONS, Store, statements

FACTS = {"name": "a task", "model": {"w": [2, 3]}}


@pytest.fixture
def store(tmp_path: Path):
    s = Store.create(tmp_path / "a.db", FACTS)
    yield s
    s.close()


def set_document(store: Store, name: str, text: str) -> None:
    with store.transaction("documents") as write:
        write.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, 0)", (name, text))


def test_a_created_store_holds_its_facts_in_wal_mode(store: Store) -> None:
    again = Store(store.path)
    assert again.facts() == FACTS
    assert again.read("PRAGMA journal_mode")[0][0] == "wal"
    assert again.read("PRAGMA user_version")[0][0] == len(MIGRATIONS)
    assert again.read("PRAGMA foreign_keys")[0][0] == 1
    again.close()


def test_creating_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    Store.create(tmp_path / "deep" / "a.db", FACTS).close()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.db"]


def test_creating_a_store_that_exists_opens_it(store: Store) -> None:
    second = Store.create(store.path, {"name": "another"})
    assert second.facts() == FACTS
    second.close()


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    s = Store.create(tmp_path / "a.db", FACTS)
    assert s.facts() == FACTS
    s.close()


@pytest.mark.parametrize("there", [False, True])
def test_creating_on_a_file_system_without_hard_links(there: bool, tmp_path: Path, monkeypatch) -> None:
    if there:
        (tmp_path / "a.db").touch()
    monkeypatch.setattr("pockgraph.files.os.link", refused_link)
    first, second = Store.create(tmp_path / "a.db", FACTS), Store.create(tmp_path / "a.db", {"name": "late"})
    assert first.facts() == second.facts() == FACTS
    first.close()
    second.close()
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]


def refused_link(*_: object) -> None:
    raise PermissionError


def test_creating_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    left = tmp_path / ".a.db.01234567.pockui-partial"
    left.mkdir()
    (left / "new").write_bytes(b"half a file")
    Store.create(tmp_path / "a.db", FACTS).close()
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]


def test_foreign_keys_are_enforced(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as write:
        write.execute(
            "INSERT INTO measurements (analysis, purpose, kind, seed, steps) "
            "VALUES (99, 'contribution', 'head', 0, 1)"
        )


def test_an_exception_undoes_the_transaction(store: Store) -> None:
    def interrupted() -> None:
        with store.transaction("documents") as write:
            write.execute("INSERT INTO documents VALUES ('a', '{}', 0)")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interrupted()
    assert store.document("a") is None
    assert store.revision("documents") == 0
    set_document(store, "a", "{}")
    assert (store.document("a"), store.revision("documents")) == ("{}", 1)


def test_changes_of_one_store_are_seen_by_another(store: Store) -> None:
    other = Store(store.path)
    set_document(store, "a", "1")
    assert (other.document("a"), other.revision("documents")) == ("1", 1)
    other.close()


def test_threads_read_while_one_writes(store: Store) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        seen = 0
        try:
            while not stop.is_set():
                value = int(store.document("n") or 0)
                assert value >= seen
                seen = value
        except BaseException as e:
            errors.append(e)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for r in readers:
        r.start()
    for i in range(50):
        set_document(store, "n", str(i))
    stop.set()
    for r in readers:
        r.join()
    assert not errors


# ---------------------------------------------------------------- files that are no study


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0", b"x" * 5000])
def test_what_is_no_database_is_refused_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"a\.db is no study"):
        Store(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as c:
        c.execute("CREATE TABLE t (x)")
    c.close()
    before = path.read_bytes()
    with pytest.raises(StudyError, match="another program's SQLite database"):
        Store(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="There is no study"):
        Store(tmp_path / "none.db")
    with pytest.raises(StudyError, match="it is a folder"):
        Store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="Cannot make"):
        Store.create(tmp_path / "file" / "a.db", FACTS)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Store.create(path, {"name": "x" * 20_000}).close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"a\.db is damaged"):
        Store(path)
    assert path.read_bytes() == bytes(content)


def test_a_newer_schema_is_refused(store: Store) -> None:
    with store.transaction() as write:
        write.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    store.close()
    with pytest.raises(StudyError, match="Upgrade PockUI"):
        Store(store.path)


def test_an_older_schema_is_migrated_once(store: Store, monkeypatch) -> None:
    set_document(store, "kept", "1")
    store.close()
    newer = (
        "CREATE TABLE more (x INTEGER) STRICT; -- a comment; with a semicolon\nINSERT INTO more VALUES (7);"
    )
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, newer))
    for _ in range(2):
        s = Store(store.path)
        assert [tuple(r) for r in s.read("SELECT * FROM more")] == [(7,)]
        assert s.document("kept") == "1"
        s.close()


def test_a_failing_migration_changes_nothing(store: Store, monkeypatch) -> None:
    store.close()
    broken = "CREATE TABLE more (x INTEGER) STRICT;\nINSERT INTO nowhere VALUES (7);"
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(StudyError, match="nowhere"):
        Store(store.path)
    monkeypatch.undo()
    s = Store(store.path)
    assert not s.read("SELECT * FROM sqlite_master WHERE name = 'more'")
    s.close()


def test_statements_are_split_at_their_ends() -> None:
    assert len(statements("CREATE TABLE a (x);\nINSERT INTO a\n VALUES (';');\n")) == 2
    assert all(sqlite3.complete_statement(s) for script in MIGRATIONS for s in statements(script))


# ---------------------------------------------------------------- kill -9

WRITER = """
import sys
from pockgraph.store import Store
store = Store.create(sys.argv[1], {"name": "x" * 5000})
start = int(store.document("a") or 0)
for i in range(start + 1, start + 100_000):
    with store.transaction("documents") as write:
        write.execute("INSERT OR REPLACE INTO documents VALUES ('a', ?, 0)", (str(i),))
        write.execute("INSERT OR REPLACE INTO documents VALUES ('b', ?, 0)", (str(i),))
    print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_reported_and_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    reported = 0
    for round_ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(3 * round_ + 1):
            reported = int(writer.stdout.readline())
        time.sleep(0.002 * round_)
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split("\n")[:-1]  # what was printed before the signal came
        reported = int(rest[-1]) if rest else reported
        s = Store(path)
        a, b = int(s.document("a") or 0), int(s.document("b") or 0)
        assert a == b == s.revision("documents")
        assert a in (reported, reported + 1)
        s.close()


def test_killed_while_creating_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    for round_ in range(6):
        path = tmp_path / f"{round_}.db"
        maker = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while (
            not list(tmp_path.glob(f".{round_}.db.*")) and time.monotonic() < deadline and not path.exists()
        ):
            time.sleep(0.0005)
        time.sleep(0.003 * round_)
        maker.kill()
        maker.communicate()
        s = Store.create(path, {"name": "second"})
        assert s.facts()["name"] in ("x" * 5000, "second")
        s.close()


# ---------------------------------------------------------------- many readers while one writes

READER = """
import sys, time
from pockgraph.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
pair, seen, changes, slowest_s = "SELECT a.json, b.json FROM documents a, documents b " \
    "WHERE a.name = 'a' AND b.name = 'b'", 0, 0, 0.0
while seen < int(sys.argv[2]):
    start = time.perf_counter()
    rows = store.read(pair)
    slowest_s = max(slowest_s, time.perf_counter() - start)
    a, b = (int(v) for v in rows[0]) if rows else (0, 0)
    assert a == b, "half of a change"
    assert a >= seen, "a change that was undone"
    changes, seen = changes + (a > seen), a
print(changes, slowest_s)
"""


def test_processes_read_while_another_one_writes(tmp_path: Path) -> None:
    """Nobody waits for anybody: not the readers for the writer, nor it for them."""
    path, last = tmp_path / "a.db", 60
    Store.create(path, FACTS).close()
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(path), str(last)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for r in readers:
        assert r.stdout is not None
        assert r.stdout.readline() == "ready\n"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) <= last:
        pass
    writer.kill()
    writer.communicate()
    for r in readers:
        changes, slowest_s = r.communicate(timeout=60)[0].split()
        assert r.returncode == 0
        assert int(changes) > 3
        assert float(slowest_s) < store_module.BUSY_TIMEOUT_MS / 1e3 / 4


CHANGE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO facts VALUES ('more', '2')")
connection.commit()
connection.close()
"""


@pytest.mark.parametrize(
    "again", [lambda path: Store(path).close(), store_module.is_study], ids=["opened", "recognised"]
)
def test_an_open_study_sees_what_others_write_though_its_file_was_looked_at_again(
    again, tmp_path: Path
) -> None:
    """Who else closes the study last would take the log away from under one that had lost its locks."""
    path = tmp_path / "a.db"
    store = Store.create(path, FACTS)
    before = len(store.read("SELECT * FROM facts"))
    again(path)
    subprocess.run([sys.executable, "-c", CHANGE, str(path)], check=True)
    assert len(store.read("SELECT * FROM facts")) == before + 1
    with store.transaction() as write:
        write.execute("DELETE FROM facts WHERE key = 'more'")
    subprocess.run([sys.executable, "-c", CHANGE, str(path)], check=True)
    assert len(store.read("SELECT * FROM facts")) == before + 1
    store.close()

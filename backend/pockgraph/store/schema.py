"""What the tables of a study are, and how older ones become those of today."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

# Version n is what the first n scripts make. A release never changes a script, it appends one.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE facts (            -- what the study is of, one JSON value each; never changes
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
    CREATE TABLE documents (        -- large JSON that is replaced as a whole: the profile, device profiles
        name TEXT PRIMARY KEY,
        json TEXT NOT NULL,
        changed REAL NOT NULL
    ) STRICT;
    CREATE TABLE analyses (         -- settings under which measurements can be compared with each other
        id INTEGER PRIMARY KEY,
        settings TEXT NOT NULL UNIQUE,
        lr REAL,                    -- tuned or given; NULL while it is being tuned
        target TEXT,
        estimates TEXT NOT NULL DEFAULT '{}',
        head TEXT NOT NULL,
        bias_order TEXT NOT NULL,
        used INTEGER NOT NULL,      -- larger is later
        holder TEXT,                -- the process that is measuring
        beat REAL NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY,
        analysis INTEGER NOT NULL REFERENCES analyses(id),
        purpose TEXT NOT NULL CHECK (purpose IN ('tuning', 'contribution')),
        kind TEXT NOT NULL CHECK (kind IN ('head', 'weight', 'bias_k')),
        fqn TEXT NOT NULL DEFAULT '',
        ratio REAL NOT NULL DEFAULT 0,
        k INTEGER NOT NULL DEFAULT 0,
        seed INTEGER NOT NULL,
        tried_lr REAL NOT NULL DEFAULT 0,   -- while tuning; otherwise the analysis's rate is used
        status TEXT NOT NULL DEFAULT 'planned'
            CHECK (status IN ('planned', 'done', 'diverged', 'failed')),
        lr REAL,
        steps INTEGER NOT NULL,
        target TEXT NOT NULL DEFAULT '',
        metric REAL,
        loss REAL,
        duration_s REAL,
        finished REAL,
        error TEXT NOT NULL DEFAULT '',
        UNIQUE (analysis, purpose, kind, fqn, ratio, k, seed, tried_lr)
    ) STRICT;
    CREATE TABLE plans (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        json TEXT NOT NULL,
        created REAL NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('running', 'done', 'cancelled', 'failed')),
        target TEXT NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    CREATE TABLE parities (         -- how a target's numbers compare with PyTorch's
        id INTEGER PRIMARY KEY,
        target TEXT NOT NULL,
        plan TEXT NOT NULL,
        passed INTEGER NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    CREATE TABLE revisions (        -- counts changes, so that readers know when to read again
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE leases (           -- every right to measure that was given: a later one's token is larger
        token INTEGER PRIMARY KEY AUTOINCREMENT,
        holder TEXT NOT NULL,
        taken REAL NOT NULL
    ) STRICT;
    CREATE TABLE new_analyses (     -- AUTOINCREMENT: the number of a deleted row is not given again
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        settings TEXT NOT NULL UNIQUE,
        lr REAL,
        target TEXT,
        estimates TEXT NOT NULL DEFAULT '{}',
        head TEXT NOT NULL,
        bias_order TEXT NOT NULL,
        used INTEGER NOT NULL,
        holder TEXT,
        beat REAL NOT NULL DEFAULT 0,
        token INTEGER NOT NULL DEFAULT 0    -- of the last lease; what carries an older one writes nothing
    ) STRICT;
    INSERT INTO new_analyses SELECT *, 0 FROM analyses;
    DROP TABLE analyses;
    ALTER TABLE new_analyses RENAME TO analyses;
    CREATE TABLE new_measurements (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        analysis INTEGER NOT NULL REFERENCES analyses(id),
        purpose TEXT NOT NULL CHECK (purpose IN ('tuning', 'contribution')),
        kind TEXT NOT NULL CHECK (kind IN ('head', 'weight', 'bias_k')),
        fqn TEXT NOT NULL DEFAULT '',
        ratio REAL NOT NULL DEFAULT 0,
        k INTEGER NOT NULL DEFAULT 0,
        seed INTEGER NOT NULL,
        tried_lr REAL NOT NULL DEFAULT 0,
        status TEXT NOT NULL DEFAULT 'planned'
            CHECK (status IN ('planned', 'done', 'diverged', 'failed')),
        lr REAL,
        steps INTEGER NOT NULL,
        target TEXT NOT NULL DEFAULT '',
        metric REAL,
        loss REAL,
        duration_s REAL,
        finished REAL,
        error TEXT NOT NULL DEFAULT '',
        UNIQUE (analysis, purpose, kind, fqn, ratio, k, seed, tried_lr)
    ) STRICT;
    INSERT INTO new_measurements SELECT * FROM measurements;
    DROP TABLE measurements;
    ALTER TABLE new_measurements RENAME TO measurements;
    CREATE TABLE new_runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        status TEXT NOT NULL CHECK (status IN ('running', 'done', 'cancelled', 'failed')),
        target TEXT NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    INSERT INTO new_runs SELECT * FROM runs;
    DROP TABLE runs;
    ALTER TABLE new_runs RENAME TO runs;
    """,
    """
    ALTER TABLE runs ADD COLUMN uid TEXT NOT NULL DEFAULT '';   -- the same in every file that holds the run
    UPDATE runs SET uid = printf('v2-%d-%.6f', id, created);
    CREATE UNIQUE INDEX runs_by_uid ON runs (uid);
    ALTER TABLE runs ADD COLUMN losses BLOB;    -- little-endian float64; NULL: they stand in the JSON
    ALTER TABLE runs ADD COLUMN holder TEXT;    -- the process that trains, while it does
    """,
    """
    CREATE TABLE probes (           -- what gradients say of every candidate, replaced as a whole
        analysis INTEGER PRIMARY KEY REFERENCES analyses(id),
        finished REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
    ALTER TABLE analyses ADD COLUMN ended TEXT NOT NULL DEFAULT '{}';   -- how the last call of it ended
    CREATE TABLE new_measurements (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        analysis INTEGER NOT NULL REFERENCES analyses(id),
        purpose TEXT NOT NULL CHECK (purpose IN ('tuning', 'screening', 'contribution')),
        kind TEXT NOT NULL CHECK (kind IN ('head', 'weight', 'bias_k')),
        fqn TEXT NOT NULL DEFAULT '',
        ratio REAL NOT NULL DEFAULT 0,
        k INTEGER NOT NULL DEFAULT 0,
        seed INTEGER NOT NULL,
        tried_lr REAL NOT NULL DEFAULT 0,
        status TEXT NOT NULL DEFAULT 'planned'
            CHECK (status IN ('planned', 'done', 'diverged', 'failed')),
        lr REAL,
        steps INTEGER NOT NULL,             -- fewer while screening
        target TEXT NOT NULL DEFAULT '',
        metric REAL,
        loss REAL,
        duration_s REAL,
        finished REAL,
        error TEXT NOT NULL DEFAULT '',
        UNIQUE (analysis, purpose, kind, fqn, ratio, k, seed, tried_lr)
    ) STRICT;
    INSERT INTO new_measurements SELECT * FROM measurements;
    DELETE FROM sqlite_sequence WHERE name = 'new_measurements';
    INSERT INTO sqlite_sequence SELECT 'new_measurements', seq FROM sqlite_sequence
        WHERE name = 'measurements';
    DROP TABLE measurements;
    ALTER TABLE new_measurements RENAME TO measurements;
    """,
    """
    CREATE TABLE devices (          -- what plans' steps took on a device, for one target
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        target TEXT NOT NULL,
        measured REAL NOT NULL,
        json TEXT NOT NULL,         -- a DeviceProfile: machine, plans, times, memory, reference kernel
        used INTEGER NOT NULL       -- plans are made for the largest; 0: for none of these
    ) STRICT;
    """,
)


def statements(script: str) -> Sequence[str]:
    """The statements of a script; `executescript` would commit the transaction around it."""
    found, text = [], ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    return found

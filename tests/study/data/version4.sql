BEGIN TRANSACTION;
CREATE TABLE "analyses" (     -- AUTOINCREMENT: the number of a deleted row is not given again
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
    , ended TEXT NOT NULL DEFAULT '{}') STRICT;
INSERT INTO "analyses" VALUES(1,'{"batches": null, "grid": [0.02, 0.1], "steps": 4}',0.02,NULL,'{}','["head.weight", "head.bias"]','["blocks.1.1.bias", "blocks.0.1.bias", "norm1.bias"]',1,NULL,1.79580361718417191507e+09,1,'{}');
CREATE TABLE documents (        -- large JSON that is replaced as a whole: the profile, device profiles
        name TEXT PRIMARY KEY,
        json TEXT NOT NULL,
        changed REAL NOT NULL
    ) STRICT;
CREATE TABLE facts (            -- what the study is of, one JSON value each; never changes
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
INSERT INTO "facts" VALUES('name','"shapes"');
INSERT INTO "facts" VALUES('reference','""');
INSERT INTO "facts" VALUES('fingerprint','"2173d690d9790cb2"');
INSERT INTO "facts" VALUES('optimizer','{"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": false}');
INSERT INTO "facts" VALUES('batch','{"x": {"shape": [8, 1, 8, 8], "dtype": "float32"}, "y": {"shape": [8], "dtype": "int64"}}');
INSERT INTO "facts" VALUES('model','{"stem.weight": [8, 1, 3, 3], "norm1.weight": [8], "norm1.bias": [8], "blocks.0.0.weight": [8, 8, 3, 3], "blocks.0.1.weight": [8], "blocks.0.1.bias": [8], "blocks.1.0.weight": [8, 8, 3, 3], "blocks.1.1.weight": [8], "blocks.1.1.bias": [8], "head.weight": [4, 8], "head.bias": [4]}');
INSERT INTO "facts" VALUES('unused','[]');
INSERT INTO "facts" VALUES('versions','{"pockui": "0.1.0", "torch": "2.13.0+cpu", "openvino": "2026.4.1", "numpy": "2.4.6"}');
INSERT INTO "facts" VALUES('created','1795803616.9498231');
CREATE TABLE leases (           -- every right to measure that was given: a later one's token is larger
        token INTEGER PRIMARY KEY AUTOINCREMENT,
        holder TEXT NOT NULL,
        taken REAL NOT NULL
    ) STRICT;
INSERT INTO "leases" VALUES(1,'process 1 on host',1.79580361718409681325e+09);
CREATE TABLE "measurements" (
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
INSERT INTO "measurements" VALUES(1,1,'tuning','head','',0.0,0,0,0.02,'done',0.02,4,'torch',0.25,1.42121684551239013671e+00,1.27962919999845325946e-01,1.79580361746337604524e+09,'');
INSERT INTO "measurements" VALUES(2,1,'tuning','weight','blocks.0.0.weight',1.0,0,0,0.02,'done',0.02,4,'torch',0.25,1.42118906974792480468e+00,8.85185810038819909095e-02,1.79580361757240319249e+09,'');
INSERT INTO "measurements" VALUES(3,1,'tuning','head','',0.0,0,0,0.1,'done',0.1,4,'torch',0.25,1.42341351509094238281e+00,2.52975599869387224316e-03,1.79580361747147107119e+09,'');
INSERT INTO "measurements" VALUES(4,1,'tuning','weight','blocks.0.0.weight',1.0,0,0,0.1,'done',0.1,4,'torch',0.25,1.42324483394622802734e+00,1.47149609983898699283e-02,1.79580361759052944178e+09,'');
INSERT INTO "measurements" VALUES(5,1,'contribution','head','',0.0,0,0,0.0,'done',0.02,4,'torch',0.25,1.42121684551239013671e+00,2.77103339976747520267e-02,1.79580361763949704172e+09,'');
INSERT INTO "measurements" VALUES(6,1,'contribution','bias_k','',0.0,1,0,0.0,'done',0.02,4,'torch',0.25,1.42126810550689697265e+00,7.78982140036532655358e-02,1.79580361772591662406e+09,'');
INSERT INTO "measurements" VALUES(7,1,'contribution','weight','blocks.1.0.weight',1.0,0,0,0.0,'done',0.02,4,'torch',0.25,1.421413421630859375e+00,6.92726150009548291563e-02,1.7958036178095910549e+09,'');
INSERT INTO "measurements" VALUES(8,1,'contribution','bias_k','',0.0,2,0,0.0,'planned',NULL,4,'',NULL,NULL,NULL,NULL,'');
INSERT INTO "measurements" VALUES(9,1,'contribution','weight','blocks.0.0.weight',1.0,0,0,0.0,'planned',NULL,4,'',NULL,NULL,NULL,NULL,'');
INSERT INTO "measurements" VALUES(10,1,'contribution','bias_k','',0.0,3,0,0.0,'planned',NULL,4,'',NULL,NULL,NULL,NULL,'');
INSERT INTO "measurements" VALUES(11,1,'contribution','weight','stem.weight',1.0,0,0,0.0,'planned',NULL,4,'',NULL,NULL,NULL,NULL,'');
CREATE TABLE parities (         -- how a target's numbers compare with PyTorch's
        id INTEGER PRIMARY KEY,
        target TEXT NOT NULL,
        plan TEXT NOT NULL,
        passed INTEGER NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
INSERT INTO "parities" VALUES(1,'openvino','head',1,1.0,'{"loss": 1e-07}');
CREATE TABLE plans (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        json TEXT NOT NULL,
        created REAL NOT NULL
    ) STRICT;
INSERT INTO "plans" VALUES(1,'head','{
 "schema": "pockui.plan/1",
 "task": "shapes",
 "model": {
  "stem.weight": [
   8,
   1,
   3,
   3
  ],
  "norm1.weight": [
   8
  ],
  "norm1.bias": [
   8
  ],
  "blocks.0.0.weight": [
   8,
   8,
   3,
   3
  ],
  "blocks.0.1.weight": [
   8
  ],
  "blocks.0.1.bias": [
   8
  ],
  "blocks.1.0.weight": [
   8,
   8,
   3,
   3
  ],
  "blocks.1.1.weight": [
   8
  ],
  "blocks.1.1.bias": [
   8
  ],
  "head.weight": [
   4,
   8
  ],
  "head.bias": [
   4
  ]
 },
 "batch": {
  "x": {
   "shape": [
    8,
    1,
    8,
    8
   ],
   "dtype": "float32"
  },
  "y": {
   "shape": [
    8
   ],
   "dtype": "int64"
  }
 },
 "optimizer": {
  "name": "sgd",
  "lr": 0.1,
  "momentum": 0.9,
  "weight_decay": 0.0,
  "nesterov": false
 },
 "batch_norm": "frozen",
 "dropout": false,
 "tensors": {
  "head.weight": {
   "dim": null,
   "channels": null
  },
  "head.bias": {
   "dim": null,
   "channels": null
  }
 },
 "predicted": {},
 "measured": {},
 "provenance": {
  "made_by": "head"
 }
}
',1.79580361783633875847e+09);
CREATE TABLE probes (           -- what gradients say of every candidate, replaced as a whole
        analysis INTEGER PRIMARY KEY REFERENCES analyses(id),
        finished REAL NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
CREATE TABLE revisions (        -- counts changes, so that readers know when to read again
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT;
INSERT INTO "revisions" VALUES('measurements',10);
INSERT INTO "revisions" VALUES('plans',1);
INSERT INTO "revisions" VALUES('runs',2);
INSERT INTO "revisions" VALUES('parities',1);
CREATE TABLE "runs" (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        status TEXT NOT NULL CHECK (status IN ('running', 'done', 'cancelled', 'failed')),
        target TEXT NOT NULL,
        created REAL NOT NULL,
        json TEXT NOT NULL
    , uid TEXT NOT NULL DEFAULT '', losses BLOB, holder TEXT) STRICT;
INSERT INTO "runs" VALUES(1,'done','openvino',1.0,'{"name": "first", "status": "done", "target": "openvino", "device": "CPU", "seed": 0, "lr": null, "steps": 2, "losses": [1.0, 0.5], "metric": 0.5, "baseline": null, "step_ms": null, "measured_peak_bytes": null, "duration_s": null, "error": "", "created": 1.0, "plan": {"schema": "pockui.plan/1", "task": "shapes", "model": {"stem.weight": [8, 1, 3, 3], "norm1.weight": [8], "norm1.bias": [8], "blocks.0.0.weight": [8, 8, 3, 3], "blocks.0.1.weight": [8], "blocks.0.1.bias": [8], "blocks.1.0.weight": [8, 8, 3, 3], "blocks.1.1.weight": [8], "blocks.1.1.bias": [8], "head.weight": [4, 8], "head.bias": [4]}, "batch": {"x": {"shape": [8, 1, 8, 8], "dtype": "float32"}, "y": {"shape": [8], "dtype": "int64"}}, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": false}, "batch_norm": "frozen", "dropout": false, "tensors": {"head.weight": {"dim": null, "channels": null}, "head.bias": {"dim": null, "channels": null}}, "predicted": {}, "measured": {}, "provenance": {"made_by": "head"}}}','v2-1-1.000000',NULL,NULL);
INSERT INTO "runs" VALUES(2,'failed','openvino',2.0,'{"name": "second", "status": "failed", "target": "openvino", "device": "CPU", "seed": 0, "lr": null, "steps": 2, "losses": [1.0, NaN], "metric": null, "baseline": null, "step_ms": null, "measured_peak_bytes": null, "duration_s": null, "error": "training diverged", "created": 2.0, "plan": {"schema": "pockui.plan/1", "task": "shapes", "model": {"stem.weight": [8, 1, 3, 3], "norm1.weight": [8], "norm1.bias": [8], "blocks.0.0.weight": [8, 8, 3, 3], "blocks.0.1.weight": [8], "blocks.0.1.bias": [8], "blocks.1.0.weight": [8, 8, 3, 3], "blocks.1.1.weight": [8], "blocks.1.1.bias": [8], "head.weight": [4, 8], "head.bias": [4]}, "batch": {"x": {"shape": [8, 1, 8, 8], "dtype": "float32"}, "y": {"shape": [8], "dtype": "int64"}}, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": false}, "batch_norm": "frozen", "dropout": false, "tensors": {"head.weight": {"dim": null, "channels": null}, "head.bias": {"dim": null, "channels": null}}, "predicted": {}, "measured": {}, "provenance": {"made_by": "head"}}}','v2-2-2.000000',NULL,NULL);
CREATE UNIQUE INDEX runs_by_uid ON runs (uid);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('analyses',1);
INSERT INTO "sqlite_sequence" VALUES('runs',2);
INSERT INTO "sqlite_sequence" VALUES('leases',1);
INSERT INTO "sqlite_sequence" VALUES('measurements',11);
COMMIT;

"""A worker for tests of jobs: does what its spec says, without loading anything."""

from __future__ import annotations

import json
import sys
import time

spec = json.loads(sys.stdin.readline())
for event in spec.get("events", []):
    print(json.dumps(event), flush=True)
if spec.get("crash"):
    raise RuntimeError(spec["crash"])
if spec.get("last"):
    sys.stdin.read()  # until it is asked to end
    print(json.dumps(spec["last"]), flush=True)
if spec.get("forever"):
    time.sleep(600)
sys.exit(spec.get("code", 0))

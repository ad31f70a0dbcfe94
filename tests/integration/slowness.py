"""How slow this machine is at the moment: promises in seconds are for one with a free core."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from deploy.local.worker_process import ROOT


def slowness() -> float:
    """How much longer work takes now than its CPU time: 1 on a machine with a free core. Scales limits in seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-c", "import app.worker"], cwd=ROOT, check=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(1.0, wall / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))

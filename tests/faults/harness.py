"""A scenario: workers under known traffic, faults injected while it flows, and a count that trusts nobody.

The shape of every fault test::

    def test_x(scenario: MakeScenario, guarantee: Guarantee) -> None:
        run = scenario("worker killed, same disk", guarantee, promised="...", may_repeat=True)
        worker = run.start("one")                  # a directory of that name; the same name finds the same disk
        with run.traffic(rate=600) as traffic:
            for _ in range(5):
                run.pause(0.5, 2.0)                # a random moment out of the seed
                with run.injection():              # counts it, and times it from here to "all sent before is processed"
                    worker.kill9()
                    worker = run.restart("one")
        run.verify()                               # waits for the end, stops the workers, counts, asserts

The line in the results file is written when the test ends, whatever its outcome.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.settings import Settings
from app.topics import INTERACTIONS
from deploy.local.worker_process import WorkerProcess
from tests.faults import observed
from tests.faults.checker import Guarantee, Promise, Verdict, check
from tests.faults.observed import Seen
from tests.faults.reference import Truth, fold, reasons_of
from tests.faults.traffic import NextClick, Traffic, clickstream
from tests.integration import truth as integration
from tests.integration.conftest import environment, environment_of

#: The smallest that the settings allow: faults that wait for it stay short.
SESSION_TIMEOUT_MS = 6_000
WAIT_S = 90.0
LOOKUPS = 200

__all__ = ["SESSION_TIMEOUT_MS", "Guarantee", "Promise", "Scenario", "Traffic", "Truth", "Verdict", "clickstream"]


class Scenario:
    """One run of one fault.

    Attributes:
        settings: of the deployment, as the checks use it (direct addresses of the services).
        random: the only source of chance; ``seed`` repeats it.
        workers: by name, the ones that were started last under that name, running or not.
        resume_s: seconds per injection.
        verdict: set by ``verify``.
    """

    def __init__(self, fault: str, promise: Promise, settings: Settings, run_dir: Path, seed: int) -> None:
        self.fault = fault
        self.promise = promise
        self.settings = settings
        self.run_dir = run_dir
        self.seed = seed
        self.random = random.Random(seed)
        self.workers: dict[str, WorkerProcess] = {}
        self.injections = 0
        self.resume_s: list[float] = []
        self.exit_statuses: list[int] = []
        self.verdict: Verdict | None = None
        self._traffics: list[Traffic] = []
        self._senders = 0

    # -- workers ----------------------------------------------------------------------------------

    def start(self, name: str = "one", *, ready: bool = True, env: dict[str, str] | None = None, **overrides: Any) -> WorkerProcess:
        """Start a worker on the directory ``name`` and wait until it is ready (``ready=False``: return at once).

        Args:
            env: variables that are no settings (``PYTHONPATH``, ``LD_PRELOAD``).
            overrides: settings of this worker alone (``kafka_bootstrap`` of a proxy, ``data_dir``).
        """
        variables = environment(self.settings) | environment_of(overrides) | (env or {})
        self.workers[name] = worker = WorkerProcess(self.run_dir / name, variables, name)
        worker.start()
        if ready:
            worker.wait_ready()
        return worker

    def restart(self, name: str = "one", *, wipe: bool = False, ready: bool = True) -> WorkerProcess:
        """Start the worker of that name again, with the same settings and port; ``wipe``: on an empty disk."""
        worker = self.workers[name]
        if wipe:
            shutil.rmtree(worker.run_dir / "data")
        worker.start()
        if ready:
            worker.wait_ready()
        return worker

    def running(self) -> list[WorkerProcess]:
        """Workers that run now."""
        return [worker for worker in self.workers.values() if worker.is_running()]

    @contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        """SIGSTOP a process for the length of the block, then SIGCONT."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    # -- traffic and faults -----------------------------------------------------------------------

    def traffic(self, rate: float = 600.0, stream: NextClick | None = None, **options: Any) -> Traffic:
        """A sender for a ``with`` block; ``options`` as of :class:`Traffic`. Several may run one after another."""
        self._senders += 1
        stream = stream or clickstream(self.seed + self._senders, f"{self.seed:x}-{self._senders}")
        traffic = Traffic(self.settings, rate, stream, **options)
        self._traffics.append(traffic)
        return traffic

    def stop_traffic(self) -> None:
        """Stop all senders before the end of their blocks; the broker has answered for everything sent."""
        for traffic in self._traffics:
            traffic.stop()

    def forget_traffic(self) -> None:
        """What was sent until now is counted already: its topic is gone."""
        self._traffics.clear()

    def pause(self, shortest_s: float, longest_s: float) -> None:
        """Let time pass until a random moment."""
        time.sleep(self.random.uniform(shortest_s, longest_s))

    @contextmanager
    def injection(self, timeout_s: float = WAIT_S) -> Iterator[None]:
        """Count one injection. After the block wait until all that was sent before the block is processed and committed;
        the seconds from the start of the block to then go into ``resume_s``."""
        self.injections += 1
        began, ends = time.monotonic(), observed.ends_of(self.settings, INTERACTIONS)
        yield
        self.wait_committed(ends, timeout_s)
        self.resume_s.append(round(time.monotonic() - began, 2))

    def wait_committed(self, ends: dict[int, int] | None = None, timeout_s: float = WAIT_S) -> None:
        """Wait until the group has committed ``ends`` (partition -> next offset); by default the source's ends now.

        Raises:
            AssertionError: it did not in time; says which partitions are behind and who still runs.
        """
        ends = observed.ends_of(self.settings, INTERACTIONS) if ends is None else ends
        deadline = time.monotonic() + timeout_s
        while behind := self._behind(ends):
            alive = {name: worker.exit_status() for name, worker in self.workers.items()}
            assert time.monotonic() < deadline, f"not committed after {timeout_s} s: {behind}; exit status of workers: {alive}"
            time.sleep(0.1)

    def _behind(self, ends: dict[int, int]) -> dict[int, tuple[int, int]]:
        committed = observed.committed_of(self.settings)
        return {n: (committed[n], end) for n, end in ends.items() if committed[n] < end}

    # -- the end ----------------------------------------------------------------------------------

    def verify(self, *, redis: bool = True, disk: bool = True, timeout_s: float = WAIT_S) -> Verdict:
        """Wait for the end of the traffic, stop the workers cleanly, count, and assert that the promise was kept.

        Args:
            redis: compare lookups too; waits up to 30 s for Redis.
            disk: compare each owner's RocksDB with the changelog after the stop.
            timeout_s: for the workers to come to the end of the source.
        """
        verdict = self.observe(redis=redis, disk=disk, timeout_s=timeout_s)
        assert not verdict.violations, f"seed {self.seed}: " + "\n".join(verdict.violations)
        return verdict

    def observe(self, *, redis: bool = True, disk: bool = True, timeout_s: float = WAIT_S) -> Verdict:
        """As ``verify``, without the assertion: for tests that expect a violation."""
        self.stop_traffic()
        self.wait_committed(timeout_s=timeout_s)
        truth = self.truth()
        seen = Seen()
        self._ask_workers(truth, seen, redis)
        owners = self._owners() if disk else {}
        self._stop_workers()
        seen.outputs = observed.read_outputs(self.settings)
        seen.dead_letters = observed.read_dead_letters(self.settings)
        seen.changelog = observed.read_changelog(self.settings)
        seen.disks = {partition: observed.read_disk(worker.run_dir, partition) for partition, worker in owners.items()}
        acked = [click.value for traffic in self._traffics for click in traffic.acked]
        self.verdict = check(truth, acked, seen, self.promise)
        return self.verdict

    def truth(self) -> Truth:
        """The reference fold of the source topic as it is now."""
        sent = [click for traffic in self._traffics for click in traffic.sent]
        return fold(observed.read_source(self.settings), reasons_of(sent))

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self.workers.values():
            if worker.is_running():
                os.kill(worker.pid, signal.SIGCONT)
            worker.kill9()

    def _ask_workers(self, truth: Truth, seen: Seen, redis: bool) -> None:
        running = self.running()
        assert running, "no worker survived"
        for worker in running:
            for name, count in integration.ledger(worker).items():
                seen.ledger[name] = seen.ledger.get(name, 0) + count
        if redis:
            users = self.random.sample(sorted(truth.sequences), min(LOOKUPS, len(truth.sequences)))
            seen.lookups = observed.read_lookups(running[0], {user: truth.sequences[user] for user in users})

    def _owners(self) -> dict[int, WorkerProcess]:
        return {lane["partition"]: worker for worker in self.running() for lane in integration.lanes(worker)}

    def _stop_workers(self) -> None:
        for worker in self.running():
            status = worker.terminate()
            assert status == 0, f"{worker.name} ended with status {status} at its clean stop"

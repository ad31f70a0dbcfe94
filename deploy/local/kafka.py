"""An Apache Kafka broker on the loopback interface, from Maven jars: for demo, tests and benchmarks.

One JVM is broker and controller (KRaft combined mode). The data directory holds its configuration,
its log (``kafka.log``) and its data; a second start on the same directory finds the data again.
"""

from __future__ import annotations

import base64
import socket
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.java import find_java
from deploy.local.kafka_config import server_properties
from deploy.local.ports import LOOPBACK, free_ports, require_free
from deploy.local.process import Command, ManagedProcess, tail

HERE = Path(__file__).parent
JARS = HERE / "target" / "dependency"
START_TIMEOUT_S = 60.0  # 4 s on an idle machine; CI machines are not idle
FORMAT_TIMEOUT_S = 60.0


class KafkaError(Exception):
    """The broker cannot be prepared; the message says what to do."""


class LocalKafka:
    """One broker on free ports, found once and kept for the life of the object.

    Args:
        data_dir: made if missing; its content decides whether storage must be formatted.
        port: of the clients' listener; 0: any free one.
        config: broker settings that override the defaults in ``kafka_config``.
        heap_mb: fixed size of the Java heap.
    """

    def __init__(self, data_dir: Path, port: int = 0, config: Mapping[str, str] | None = None, heap_mb: int = 512) -> None:
        self.data_dir = data_dir.resolve()
        first, self._controller_port = free_ports(2)
        self.port = port or first
        self._config = dict(config or {})
        self._heap_mb = heap_mb
        self._process: ManagedProcess | None = None

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise KafkaError("Kafka is not started")
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.data_dir / "kafka.log"

    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running()

    def start(self) -> None:
        """Format storage if it is new, start, wait until the broker answers.

        Raises:
            KafkaError, JavaError: jars, Java or the storage are not usable.
            PortTakenError: another process listens on its port.
            ProcessError: it did not come up; holds the end of its log.
        """
        require_free(self.port)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(
            server_properties(self.data_dir, self.port, self._controller_port, self._config), encoding="utf-8"
        )
        if not (self.data_dir / "logs" / "meta.properties").exists():
            self._format()
        java = _java_command(self._heap_mb)
        self._process = ManagedProcess(Command("Kafka", [*java, "kafka.Kafka", str(self._properties)], self.log, cwd=self.data_dir))
        self._process.start()
        self._process.wait_until(self._answers, START_TIMEOUT_S)

    def stop(self) -> None:
        """SIGTERM (a controlled shutdown), SIGKILL if it takes longer than 20 s."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop, then start on the same data and ports."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def _properties(self) -> Path:
        return self.data_dir / "server.properties"

    def _format(self) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # The equals sign: a random id may begin with a hyphen.
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", str(self._properties)]
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603  our own command
                [*_java_command(128), "-XX:TieredStopAtLevel=1", *tool],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                start_new_session=True,  # a Ctrl-C in the terminal is for our caller to handle
                timeout=FORMAT_TIMEOUT_S,
                check=False,
            )
        if done.returncode != 0:
            raise KafkaError(f"Kafka cannot format {self.data_dir}. Last lines of {self.log}:\n{tail(self.log)}")

    def _answers(self) -> bool:
        return answers_api_versions(self.port)


def answers_api_versions(port: int) -> bool:
    """Whether a broker serves requests: its listener takes connections earlier than it handles them."""
    request = struct.pack(">hhih", 18, 0, 1, -1)  # ApiVersions v0, correlation id 1, no client id
    try:
        with socket.create_connection((LOOPBACK, port), 1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(10)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">ih", answer[4:]) == (1, 0)


def _java_command(heap_mb: int) -> list[str]:
    if not any(JARS.glob("kafka_*.jar")):
        raise KafkaError(f"Kafka's jars are missing in {JARS}: run `make jars`")
    log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
    heap = [f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m"]
    return [find_java(), *heap, "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Xshare:auto", log4j, "-cp", f"{JARS}/*"]

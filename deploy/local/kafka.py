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
from deploy.local.kafka_config import Proxied, server_properties
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
        controller_port: of the controllers' listener; 0: any free one.
        cluster_id: written when the storage is formatted; empty: a random one.
        advertised: port of a proxy: a second listener on ``behind_proxy`` sends its clients there; 0: none.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        config: Mapping[str, str] | None = None,
        heap_mb: int = 512,
        *,
        controller_port: int = 0,
        cluster_id: str = "",
        advertised: int = 0,
    ) -> None:
        self.data_dir = data_dir.resolve()
        first, second, third = free_ports(3)
        self.port = port or first
        self._controller_port = controller_port or second
        self._proxied = Proxied(third, advertised) if advertised else None
        self._cluster_id = cluster_id
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
    def behind_proxy(self) -> int:
        """Port to which a proxy must forward.

        Raises:
            KafkaError: there is no such listener.
        """
        if self._proxied is None:
            raise KafkaError("Kafka was made without `advertised`: it has no listener for a proxy")
        return self._proxied.port

    @property
    def log(self) -> Path:
        return self.data_dir / "kafka.log"

    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running()

    def wait(self, timeout_s: float) -> int | None:
        """Exit status once it ended by itself, None if it still runs after ``timeout_s`` or never ran."""
        return None if self._process is None else self._process.wait(timeout_s)

    def start(self) -> None:
        """``prepare``, ``launch``, ``wait_ready``; raises what they raise."""
        self.prepare()
        self.launch()
        self.wait_ready()

    def prepare(self) -> None:
        """Write the configuration, and format the storage if it is new.

        Raises:
            KafkaError, JavaError: jars, Java or the storage are not usable.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        text = server_properties(self.data_dir, self.port, self._controller_port, self._config, self._proxied)
        self._properties.write_text(text, encoding="utf-8")
        if not (self.data_dir / "logs" / "meta.properties").exists():
            self._format()

    def launch(self) -> None:
        """Start on prepared storage and return at once.

        Raises:
            PortTakenError: another process listens on its port.
        """
        require_free(self.port)
        java = _java_command(self._heap_mb)
        self._process = ManagedProcess(Command("Kafka", [*java, "kafka.Kafka", str(self._properties)], self.log, cwd=self.data_dir))
        self._process.start()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the launched broker answers.

        Raises:
            ProcessError: it did not come up; holds the end of its log.
        """
        if self._process is None:
            raise KafkaError("Kafka is not started")
        self._process.wait_until(self._answers, timeout_s)

    def stop(self) -> None:
        """SIGTERM (a controlled shutdown), SIGKILL if it takes longer than 20 s."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as in a very long garbage collection."""
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.resume()

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
        cluster_id = self._cluster_id or new_cluster_id()
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


def new_cluster_id() -> str:
    """A random one in Kafka's form: 16 bytes, URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


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

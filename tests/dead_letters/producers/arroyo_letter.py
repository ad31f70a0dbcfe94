"""What Sentry's Arroyo writes, by its own code. Runs in an environment of its own (``__main__``), so it imports nothing of ours."""

import base64
import datetime as dt
import json
import sys
from typing import Any

from arroyo.backends.kafka import KafkaPayload  # type: ignore[import-not-found]
from arroyo.dlq import KafkaDlqProducer  # type: ignore[import-not-found]
from arroyo.types import BrokerValue, Partition, Topic  # type: ignore[import-not-found]


class Printing:
    """Takes what would go to a broker, and prints it."""

    def produce(self, topic: Any, payload: Any) -> None:
        """As Arroyo's producers have it."""
        headers = [[name, b64(held)] for name, held in payload.headers]
        letter = {"dialect": "arroyo", "topic": topic.name, "partition": 0, "key": b64(payload.key), "value": b64(payload.value)}
        sys.stdout.write(json.dumps(letter | {"headers": headers}) + "\n")


def b64(raw: bytes) -> str:
    """As JSON has it."""
    return base64.b64encode(raw).decode()


failed = KafkaPayload(b"user-7", b'{"type":"track","messageId":17}', [("trace", b"abc")])
place = Partition(Topic("orders"), 3), 1042, dt.datetime.fromtimestamp(1_767_600_000, dt.UTC)
KafkaDlqProducer(Printing(), Topic("orders-dlq")).produce(BrokerValue(failed, *place), "invalid")

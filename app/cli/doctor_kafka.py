"""Checks of ``veltrix doctor`` that ask Kafka."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Final

from app.cli.checkup import Check, fail, ok, warn
from app.cli.forgotten_tiers import forgotten_tiers
from app.cli.reading import open_consumer, partitions_of, read_last
from app.domain.routing import partition_of
from app.engine.api import Record
from app.settings import Settings
from app.topic_admin import UnknownTopicError, check_topics, open_admin
from app.topics import INTERACTIONS

#: Records of the source topic that are looked at, all partitions together.
SAMPLE: Final = 1000
#: A newest record this far in the future says that a producer's clock is wrong.
FUTURE_MS: Final = 2_000
LIBRDKAFKA: Final = (
    "librdkafka's default partitioner (consistent_random, CRC32; used by confluent-kafka, node-rdkafka, PHP, Ruby, .NET, Go) "
    "is not Kafka's: set partitioner=murmur2_random in those producers"
)


async def check_kafka(settings: Settings) -> list[Check]:
    """Broker, topics, routing and producers' clocks.

    Raises:
        KafkaConnectError: the broker cannot be reached; nothing else can be said then.
    """
    checks = [await check_broker(settings), *await check_all_topics(settings), *await check_tiers(settings)]
    try:
        tps = await partitions_of(settings, INTERACTIONS)
    except UnknownTopicError:
        return checks  # reported as missing
    async with open_consumer(settings) as consumer:
        records = await read_last(consumer, tps, -(-SAMPLE // len(tps)))
    now_ms = time.time_ns() // 1_000_000
    return [*checks, check_routing(records, len(tps)), check_producer_clocks(records, now_ms)]


async def check_broker(settings: Settings) -> Check:
    """Reached as the settings say; every broker of the cluster under the name it tells its clients."""
    async with open_admin(settings) as admin:
        started = time.perf_counter()
        cluster = await admin.client.describe_cluster()
        took_ms = (time.perf_counter() - started) * 1000
    brokers = ", ".join(f"{row['host']}:{row['port']}" for row in cluster["brokers"])
    return ok(
        "kafka", f"{len(cluster['brokers'])} broker(s): {brokers}; {settings.kafka_security_protocol}; answers in {took_ms:.1f} ms"
    )


async def check_all_topics(settings: Settings) -> list[Check]:
    """One line when all is well, else one for each difference."""
    problems = await check_topics(settings)
    if not problems:
        return [ok("topics", f"all there, {settings.partitions} partitions each")]
    report = [(fail if problem.stops_worker else warn, problem) for problem in problems]
    return [make("topics", str(problem).partition(" (mend:")[0], f"mend with: {problem.fixed_by}") for make, problem in report]


async def check_tiers(settings: Settings) -> list[Check]:
    """Retry tiers in which records wait although the settings do not name them; nothing to say when there are none."""
    return [fail("retry tiers", str(tier), tier.advice) for tier in await forgotten_tiers(settings)]


def check_routing(records: Sequence[Record], partitions: int) -> Check:
    """Are keys where murmur2 puts them? A record elsewhere becomes the dead letter ``misrouted``."""
    if not records:
        return ok("routing", f"{INTERACTIONS} is empty: nothing to look at")
    keyed = [(record.key, record.partition) for record in records if record.key is not None]
    wrong = [(key, partition) for key, partition in keyed if partition_of(key, partitions) != partition]
    unkeyed = len(records) - len(keyed)
    if not wrong and not unkeyed:
        return ok("routing", f"the last {len(records)} records are all in the partition of their key")
    detail = f"of the last {len(records)} records {len(wrong)} are in a wrong partition and {unkeyed} have no key: they become dead letters"
    advice = []
    if wrong:
        crc32 = sum(zlib.crc32(key) % partitions == partition for key, partition in wrong)
        advice.append(f"{LIBRDKAFKA} ({crc32} of these {len(wrong)} are where CRC32 puts them)")
    if unkeyed:
        advice.append("producers must set the key: userId, else anonymousId")
    # A few strays come from tests and hand-sent events; more than 1 % is a producer that is set up wrongly.
    severe = (len(wrong) + unkeyed) * 100 > len(records)
    return (fail if severe else warn)("routing", detail, "; ".join(advice))


def check_producer_clocks(records: Sequence[Record], now_ms: int) -> Check:
    """Kafka has no request for the broker's clock, so this compares the newest record's time with ours."""
    if not records:
        return ok("producer clocks", "no records to compare with")
    age_ms = now_ms - max(record.timestamp for record in records)
    if age_ms < -FUTURE_MS:
        advice = "synchronise the clocks of the producers and of this machine (NTP); limits on event time are measured against it"
        return warn("producer clocks", f"the newest source record is {-age_ms / 1000:.1f} s in the future", advice)
    return ok("producer clocks", f"the newest source record is {age_ms / 1000:.1f} s old")

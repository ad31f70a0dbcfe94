"""Every hook of Faust, mode and aiokafka that the engine overrides or touches, as it was when it was read.

None of these is a promise of its project, so an update may break the engine without an error. The list pins
what was reviewed: version, signature and a digest of the source. ``tests/engine/test_hooks.py`` fails when an
installed version differs or when the engine uses a hook that is not listed here.

After an update: read the changed upstream code, mend the engine, run ``python -m app.engine.hooks`` and copy
its lines into this file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Package:
    """An installed distribution and the version whose source was read."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Hook:
    """One attribute of another package: ``target`` is ``module:Class.attribute`` or ``module:attribute``."""

    target: str
    package: Package
    why: str
    signature: str
    digest: str

    @property
    def version(self) -> str:
        """Version of the package that this entry was read in."""
        return self.package.version


@dataclass(frozen=True, slots=True)
class Found:
    """A hook as installed: parameters without annotations ("" for a value), 16 hex digits of the source's SHA-256."""

    version: str
    signature: str
    digest: str


class HookGone(Exception):
    """The attribute does not exist any more. Read what replaced it, then mend the engine."""

    def __init__(self, target: str) -> None:
        super().__init__(f"{target} does not exist in the installed version")
        self.target = target


def _of(owner: str, package: Package, rows: Mapping[str, tuple[str, str, str]]) -> Iterator[Hook]:
    """Hooks of one owner (``module`` or ``module:Class``): attribute to signature, digest, why."""
    separator = "." if ":" in owner else ":"
    for attribute, (signature, digest, why) in rows.items():
        yield Hook(f"{owner}{separator}{attribute}", package, why, signature, digest)


FAUST = Package("faust-streaming", "0.15.3")
MODE = Package("mode-streaming", "0.7.1")
AIOKAFKA = Package("aiokafka", "0.14.0")

#: Types of default values whose repr is the same everywhere.
_PLAIN = (int, float, str, bytes, type(None), list)

# fmt: off
# One line a hook, as `python -m app.engine.hooks` prints it.
HOOKS: tuple[Hook, ...] = (
    *_of("faust.transport.consumer:Consumer", FAUST, {
        "on_partitions_assigned": ("(self, assigned, generation_id=0)", "8cee14735fb5d8ea", "takes transactional ids over before Faust reads offsets and changelogs"),
        "_drain_messages": ("(self, fetcher)", "292ceca32fb5f90c", "hands fetched records to lanes, a list at a time, instead of one callback per message"),
        "pause_partitions": ("(self, tps)", "d0f9e0e6afbab671", "also pauses at the broker; Faust goes on fetching"),
        "resume_partitions": ("(self, tps)", "91deaa77fada87bb", "also resumes at the broker"),
        "wait_empty": ("(self)", "1bfa55135e0a41f4", "finishes and commits the units in flight, then stops the lanes"),
        "_filter_tps_with_pending_acks": ("(self, topics=None)", "7b5e9b3c9f1b8056", "partitions with durable units instead of acked messages"),
        "_new_offset": ("(self, tp)", "66fff896254f9b84", "end of a lane's durable prefix; the original commits past an unacked head"),
        "_add_gap": ("(self, tp, offset_from, offset_to)", "13260a7e377d922c", "no gaps to track; the original stalls commits on them"),
        "_commit_offsets": ("(self, offsets, start_new_transaction=True)", "469ed514dff09b09", "durable means acknowledged: no producer flush; tells the engine"),
        "_committed_offset": ("", "26a68f154b118301", "updated after a commit, read by _should_commit"),
        "_get_active_partitions": ("(self)", "6b98b2ea23ded9c4", "called: which partitions to fetch"),
        "_should_commit": ("(self, tp, offset)", "f364ecf8620dfc7c", "relied on: a commit never goes back"),
    }),
    *_of("faust.topics:Topic", FAUST, {
        "get_topic_name": ("(self)", "672604921e027525", "the source of an agent that reads its retry tiers too: `faust agents` asks for one name"),
    }),
    *_of("faust.transport.consumer:ThreadDelegateConsumer", FAUST, {
        "seek_to_committed": ("(self)", "953c48a641a566e2", "opens lanes; seeks to max(committed, applied)"),
        "_commit": ("(self, offsets)", "0002b9f4debc8fe6", "called: the commit itself"),
        "_thread": ("", "8808053470854617", "read: the consumer thread"),
    }),
    *_of("faust.transport.drivers.aiokafka:Consumer", FAUST, {
        "_new_consumer_thread": ("(self)", "c4a2821269c4f9d3", "the consumer runs on the worker's loop"),
        "create_topic": ("(self, topic, partitions, replication, *, config=None, timeout=30.0, retention=None, compacting=None, deleting=None, ensure_created=False)", "b820ad4ddcb6fafe", "topics come from `veltrix topics apply`"),
        "verify_event_path": ("(self, now, tp)", "67770280d2b4984f", "looks at streams that are not there"),
    }),
    *_of("faust.transport.consumer:ConsumerThread", FAUST, {
        "on_partitions_revoked": ("(self, revoked)", "8f3c1dcf6a4c7e84", "no second thread to cross"),
        "on_partitions_assigned": ("(self, assigned, generation_id=0)", "35e870601064f139", "no second thread to cross"),
    }),
    *_of("faust.transport.drivers.aiokafka:AIOKafkaConsumerThread", FAUST, {
        "on_start": ("(self)", "1e2e890ab3b51f83", "after it, watches the membership"),
        "_create_worker_consumer": ("(self, transport)", "80377d303e50d401", "shorter fetch wait"),
        "_consumer": ("", "dc937b59892604f5", "read: aiokafka's consumer, stopped in on_stop"),
        "_ensure_consumer": ("(self)", "7ad1994abb323d86", "called: aiokafka's consumer"),
        "commit": ("(self, offsets)", "ce933577f4596de0", "a failed commit is logged and tried again; Faust crashes the worker"),
        "getmany": ("(self, active_partitions, timeout)", "574e19518da6e743", "called: one fetch; checks flow_active again"),
        "on_thread_stop": ("(self)", "5a7298ccb1a0aeb5", "not called any more: on_stop does its work"),
        "close": ("(self)", "bb33e5041b26c32f", "relied on: must not need a thread"),
    }),
    *_of("faust.transport.drivers.aiokafka:Producer", FAUST, {
        "_settings_extra": ("(self)", "ba7092064d8bba85", "idempotent and acks=all without transactions"),
        "_producer": ("", "dc937b59892604f5", "read: connected or not"),
    }),
    *_of("faust.transport.drivers.aiokafka:Transport", FAUST, {
        "Consumer": ("", "1ea0a976703fd714", "ours"),
        "Producer": ("", "64a4e9dc18d61a76", "ours"),
    }),
    *_of("faust.app.base:App", FAUST, {
        "BootStrategy": ("", "33a256d4c4548a12", "ours"),
        "_new_transport": ("(self)", "ad3271170e9cdaf1", "ours"),
        "_new_producer_transport": ("(self)", "dfd2e1c1b839fb7d", "ours"),
        "web_server_url": ("(self)", "b5ac12d4ed72b52b", "the banner names the sidecar; Faust's own server is off"),
        "_consumer": ("", "dc937b59892604f5", "read: started or not"),
        "_producer": ("", "dc937b59892604f5", "read: started or not"),
    }),
    *_of("faust.app.base:BootStrategy", FAUST, {
        "enable_web": ("", "dc937b59892604f5", "the sidecar serves HTTP; the command line turns Faust's on"),
    }),
    *_of("faust.agents.agent:Agent", FAUST, {
        "on_start": ("(self)", "b2869319fcd59cb4", "subscribes only: lanes call the body, there are no actors"),
        "on_stop": ("(self)", "650b51b24e5eb04c", "no actors to stop"),
    }),
    *_of("faust.tables.manager:TableManager", FAUST, {
        "recovery": ("(self)", "f7226be333bc9af7", "ours"),
        "_recovery": ("", "dc937b59892604f5", "where the property keeps it"),
        "on_start": ("(self)", "35aa469ac19e96ab", "ours: no second of waiting"),
        "_update_channels": ("(self)", "fbf8c1558b2d8743", "called at the start"),
    }),
    *_of("faust.tables.base:Collection", FAUST, {
        "_new_store": ("(self)", "2abc62ec2c552d6d", "ours"),
    }),
    *_of("faust.stores.base:Store", FAUST, {
        "on_recovery_completed": ("(self, active_tps, standby_tps)", "40cb2769481e3800", "checks topic ids before lanes open"),
        "persisted_offset": ("(self, tp)", "6734a331e022455f", "from the engine's store"),
        "on_rebalance": ("(self, assigned, revoked, newly_assigned, generation_id=0)", "df81dbc35aa89696", "opens and closes the engine's stores"),
    }),
    *_of("faust.types.stores:StoreT", FAUST, {
        "apply_changelog_batch": ("(self, batch, to_key, to_value)", "6eb6401f8a232f5f", "changelog records go through Engine.restore"),
        "backup_partition": ("(self, tp, flush=True, purge=False, keep=1)", "521bd3298c9bcf8f", "the changelog is the backup"),
        "restore_backup": ("(self, tp, latest=True, backup_id=0)", "370c6bd02253b1f9", "the changelog is the backup"),
        "reset_state": ("(self)", "d173536a2222835b", "refused: `veltrix reset` does it"),
    }),
    *_of("faust.tables.recovery:Recovery", FAUST, {
        "_build_highwaters": ("(self, consumer, tps, destination, title)", "a0e62c92172d0c8b", "a table ahead of its changelog is refused"),
        "on_rebalance": ("(self, assigned, revoked, newly_assigned, generation_id=0)", "d983305ee5cedbbd", "drops stale standbys"),
        "on_recovery_completed": ("(self, generation_id=0)", "6f5a50571ed648c5", "relied on: runs before perform_seek"),
        "standby_remaining_total": ("(self)", "09e6dbc895680349", "relied on"),
        "_set_recovery_started": ("(self)", "213cb0e912f241a0", "notes start and total for progress"),
        "_set_recovery_ended": ("(self)", "2c2f08980c1b4886", "notes the end for progress"),
        "_slurp_changelogs": ("(self)", "a0fe139f418cfa8c", "only watches for the end: records go straight to RocksDB"),
        "_wait": ("(self, coro, timeout=None)", "acec84976058700a", "a timeout ends the worker instead of ending recovery without a word"),
        "_restart_recovery": ("(self)", "65d3b4da79f13a3b", "relied on: order of phases and signals"),
        "_resume_streams": ("(self, generation_id=0)", "5d134dc4251d1841", "relied on: resume, seek, then flow"),
        "need_recovery": ("(self)", "a69bf04eb6c35d87", "relied on: active_offsets against active_highwaters"),
        "active_remaining": ("(self)", "6cdfdaacc8253cb1", "relied on: highwater minus offset"),
    }),
    *_of("faust.streams", FAUST, {
        "_CStreamIterator": ("", "89c020dd15c33a86", "asserted at boot: the Python fallback acknowledges skipped events"),
    }),
    *_of("faust.worker:Worker", FAUST, {
        "on_init_dependencies": ("(self)", "32a5a59290bad413", "our services around the stream app"),
        "_setup_spinner_handler": ("(self, logger, level)", "8073473ef0002688", "no control characters in logs"),
    }),
    *_of("mode.threads:ServiceThread", MODE, {
        "wait_for_shutdown": ("", "3cbc87c7681f34db", "plain service"),
        "start": ("(self)", "8d269a6b02ff1d2e", "plain service"),
        "maybe_start": ("(self)", "e6196159a6b300ad", "plain service"),
        "stop": ("(self)", "8060a412ea466211", "plain service"),
        "crash": ("(self, exc)", "0aaabcb91fdaf16e", "plain service"),
        "_stopped_set": ("(self)", "84bcd6933058d01c", "plain service"),
        "set_shutdown": ("(self)", "86b10c7d3d1ac281", "plain service"),
        "_stop_children": ("(self)", "d7304a6179aee08b", "plain service"),
        "_stop_futures": ("(self)", "07e662ac08d34bfd", "plain service"),
        "_stop_exit_stacks": ("(self)", "abde019bdfe7a5dd", "plain service"),
    }),
    *_of("mode.threads:QueueServiceThread", MODE, {
        "call_thread": ("(self, fun, *args, **kwargs)", "0c695a488958a873", "calls at once"),
        "cast_thread": ("(self, fun, *args, **kwargs)", "9462ead5aa0465ee", "calls at once"),
    }),
    *_of("mode.services:ServiceCallbacks", MODE, {
        "on_start": ("(self)", "5da43843f2b08728", "boot checks, background coroutine"),
        "on_stop": ("(self)", "05cf6e743686c0e9", "aiokafka's consumer, stores, directory lock"),
    }),
    *_of("mode.services:Service", MODE, {
        "__init__": ("(self, *, beacon=None, loop=None)", "060f3f283ee96b19", "arguments of our services"),
        "_get_tasks": ("(self)", "aa6699bd7f662bd8", "no keep-alive"),
        "_default_start": ("(self)", "9a9beec805519105", "called: plain service"),
        "_default_stop_children": ("(self)", "202e9169f989409e", "called: plain service"),
        "_default_stop_futures": ("(self)", "db3ca86d2603a300", "called: plain service"),
        "_default_stop_exit_stacks": ("(self)", "c145cf69dc4af19a", "called: plain service"),
        "_stopped": ("", "060f3f283ee96b19", "set: plain service"),
        "_shutdown": ("", "060f3f283ee96b19", "set: plain service"),
    }),
    *_of("mode.utils.collections:FastUserDict", MODE, {
        "__getitem__": ("(self, key)", "7dd2388b4ae97d05", "refused: state is reached through batch.state"),
        "__setitem__": ("(self, key, value)", "eda8ad0a8c5f3759", "refused"),
        "__delitem__": ("(self, key)", "c0e50267587da075", "refused"),
        "__iter__": ("(self)", "6c16d1782f1abb77", "refused"),
        "__len__": ("(self)", "e51ae16a6a1d3903", "estimate of all partitions"),
    }),
    *_of("aiokafka:AIOKafkaConsumer", AIOKAFKA, {
        "_coordinator": ("", "248ff1031ac3126f", "read: the group coordinator to watch and to ask"),
        "_fetcher": ("", "248ff1031ac3126f", "read: whether it still fetches"),
        "_fetch_max_wait_ms": ("", "248ff1031ac3126f", "Faust passes 1500 ms and has no setting"),
    }),
    *_of("faust.assignor.partition_assignor:PartitionAssignor", FAUST, {
        "_perform_assignment": ("(self, cluster, member_metadata)", "7970cf917c7bd507", "exactly once: whole transaction groups"),
        "_url": ("(self)", "0ece03486cbf2d31", "a member's name, which must survive its restart; the original is the web server's"),
        "name": ("(self)", "c9690b8f47c9f9ba", "exactly once: the broker refuses members that assign in another way"),
        "_update_member_urls": ("(self, clients_metadata)", "0415a2cacb8d5be8", "called: names for the distribution"),
        "_protocol_assignments": ("(self, assignments, cl_distribution, tp_distribution, topic_groups)", "f3bc00fc99ecc9ca", "called: packs the assignments"),
        "_get_changelog_distribution": ("(self, assignments)", "d4ce0b1e8c3e9a15", "called: who has which changelog partition"),
        "_get_external_topic_distribution": ("(self, assignments)", "2a69574a5aa0c097", "called: who has which source partition"),
    }),
    *_of("aiokafka.consumer.group_coordinator:GroupCoordinator", AIOKAFKA, {
        "_send_req": ("(self, request)", "5a71e1ccc44b1dc8", "sees the answers that say a static member is none any more"),
        "_on_join_complete": ("(self, generation, member_id, protocol, member_assignment_bytes)", "230498ba0b2434e1", "does not take an assignment made for other topics"),
        "_do_rejoin_group": ("(self, subscription)", "96df7d8d8d4d7508", "leaving for a new membership is not joining"),
        "_push_error_to_user": ("(self, exc)", "56aab1a87cc6b1d3", "ends the worker; the original waits for a getmany that may never come"),
        "_coordination_task": ("", "d2953c38be43a06a", "ends the worker when it ended"),
        "_closing": ("", "d2953c38be43a06a", "read: a clean stop"),
        "_max_poll_interval": ("", "d2953c38be43a06a", "no limit: a member without partitions has nothing to poll"),
        "_group_instance_id": ("", "d2953c38be43a06a", "read: static or not"),
        "_session_timeout_ms": ("", "d2953c38be43a06a", "read: for a message"),
        "_subscription": ("", "9d8f1437dac6fabb", "read: topics subscribed"),
        "_perform_assignment": ("(self, response)", "a0883f3fc757cabb", "after it, asks for topics that the leader does not know"),
        "_group_subscription": ("", "d2953c38be43a06a", "read: topics of all members"),
        "_cluster": ("", "9d8f1437dac6fabb", "read: partitions of a topic"),
        "_client": ("", "9d8f1437dac6fabb", "called: a metadata update"),
    }),
    *_of("aiokafka.admin:AIOKafkaAdminClient", AIOKAFKA, {
        "_send_request": ("(self, request, node_id=None)", "923759214b3cd764", "called: requests with group.instance.id"),
    }),
    *_of("aiokafka.conn:AIOKafkaConnection", AIOKAFKA, {
        "send": ("(self, request, expect_response=True)", "800e0e9b027e30e1", "a reset connection is an error of the connection, under uvloop too"),
    }),
    *_of("aiokafka.consumer.consumer", AIOKAFKA, {
        "Fetcher": ("", "90cfe0ec46ba5b56", "replaced by EngineFetcher: what a consumer that starts makes one of"),
    }),
    *_of("aiokafka.consumer.fetcher:Fetcher", AIOKAFKA, {
        "_proc_fetch_request": ("(self, assignment, node_id, request)", "d86f4f9b7001c1f8", "with little to do, it hands over at once and ends when the outputs are out"),
        "_notify": ("(self, future)", "237e60e98eea8f59", "the end of such a fetch asks for more, not the taking of its records"),
        "_fetch_waiters": ("", "32f20192b8888b2b", "read: who waits for records"),
        "_get_actions_per_node": ("(self, assignment)", "ce1105e08135eb32", "paused partitions are neither looked at nor waited for"),
        "_wait_consume_future": ("", "32f20192b8888b2b", "read: which future asks for more"),
    }),
    *_of("aiokafka.protocol.struct:Struct", AIOKAFKA, {
        "encode": ("(self)", "3519b4662150285c", "replaced for fetch and produce requests by fetch_codec and produce_codec"),
    }),
    *_of("aiokafka.consumer.fetcher:PartitionRecords", AIOKAFKA, {
        "_tp": ("", "c83eea057b6e8d45", "read: which partition"),
        "_records": ("", "c83eea057b6e8d45", "read: the batches of the response"),
        "_check_crcs": ("", "c83eea057b6e8d45", "read: the setting"),
        "_isolation_level": ("", "c83eea057b6e8d45", "read: the setting"),
        "_aborted_producers": ("", "c83eea057b6e8d45", "kept as upstream keeps it"),
        "_consume_aborted_up_to": ("(self, batch_offset)", "3e06e18897c8a64f", "called: aborted transactions up to a batch"),
        "_contains_abort_marker": ("(self, next_batch)", "e2ead1a3e7560d31", "called: a control batch that ends one"),
        "_records_iterator": ("", "c83eea057b6e8d45", "dropped: it holds its owner"),
        "next_fetch_offset": ("", "c83eea057b6e8d45", "moved, as upstream moves it"),
        "_unpack_records": ("(self)", "4a783bfda70fa2b0", "replaced by fetched.read, which must do what it does"),
    }),
    *_of("aiokafka.consumer.fetcher:FetchResult", AIOKAFKA, {
        "getall": ("(self, max_records=None)", "dab3256df06c4c03", "replaced by fetched.getall"),
        "check_assignment": ("(self, tp)", "ed34624ba3bb944c", "called: the fetch is still wanted"),
        "has_more": ("(self)", "72594f9363c00f05", "called"),
        "_update_position": ("(self)", "dcc29a6eec296c77", "called: moves the consumer's position"),
        "_partition_records": ("", "baa4056d7882677c", "read, and dropped when it is empty"),
        "_topic_partition": ("", "baa4056d7882677c", "read"),
    }),
    *_of("aiokafka.producer.message_accumulator:BatchBuilder", AIOKAFKA, {
        "_builder": ("", "6bbd841d8570dd3b", "filled directly: append costs as much again"),
        "_relative_offset": ("", "6bbd841d8570dd3b", "kept by hand when filled directly"),
        "append": ("(self, *, timestamp, key, value, headers=[])", "12f330ac61cad1a3", "bypassed: must do no more than we do"),
        "close": ("(self)", "dc052e47bf468ffa", "relied on: a closed batch takes no more records"),
    }),
    *_of("aiokafka.record.default_records", AIOKAFKA, {
        "_DefaultRecordBatchBuilderPy": ("", "42357d11f3565a0e", "asserted at boot: the C builder is loaded"),
    }),
    *_of("aiokafka.record.default_records:_DefaultRecordBatchBuilderPy", AIOKAFKA, {
        "append": ("(self, offset, timestamp, key, value, headers, encode_varint=Ellipsis, size_of_varint=Ellipsis, get_type=Ellipsis, type_int=Ellipsis, time_time=Ellipsis, byte_like=Ellipsis, bytearray_type=Ellipsis, len_func=Ellipsis, zero_len_varint=1)", "df19e0d1bddee49f", "called by position on its C twin, which has no source to compare"),
    }),
)
# fmt: on


def look(hook: Hook) -> Found:
    """The hook as it is installed here.

    Raises:
        HookGone: it is not there.
    """
    source, signature = _read(hook.target)
    lines = [line.rstrip() for line in textwrap.dedent(source).splitlines()]
    text = "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))
    return Found(importlib.metadata.version(hook.package.name), signature, hashlib.sha256(text.encode()).hexdigest()[:16])


def difference(hook: Hook) -> str | None:
    """What the installed version has changed, in words; None if nothing."""
    try:
        found = look(hook)
    except HookGone as exc:
        return str(exc)
    if found.version != hook.version:
        return f"{hook.package.name} {found.version} is installed, {hook.target} was read in {hook.version}"
    if found.signature != hook.signature:
        return f"{hook.target}: signature is {found.signature or 'none'}, was {hook.signature or 'none'}"
    if found.digest != hook.digest:
        return f"{hook.target}: source has changed ({found.digest}, was {hook.digest})"
    return None


def _read(target: str) -> tuple[str, str]:
    """Source text and signature of what ``target`` names."""
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = path.split(".")
    for name in classes:
        owner = getattr(owner, name)
    try:
        value = inspect.getattr_static(owner, attribute)
    except AttributeError:
        return _initializer(owner, attribute, target), ""
    # mode wraps background tasks in an object, properties hold their getter.
    value = getattr(value, "fun", None) or getattr(value, "fget", None) or value
    if inspect.isfunction(value):
        return inspect.getsource(value), _signature(value)
    return (f"{value.__module__}.{value.__qualname__}" if inspect.isclass(value) else repr(value)), ""


def _initializer(owner: Any, attribute: str, target: str) -> str:
    """The source of the method that sets an attribute of instances."""
    assignment = re.compile(rf"self\.{attribute}(:[^=\n]+)? = ")
    for cls in inspect.getmro(owner) if inspect.isclass(owner) else ():
        for method in vars(cls).values():
            if inspect.isfunction(method) and assignment.search(source := inspect.getsource(method)):
                return source
    raise HookGone(target)


def _signature(function: Any) -> str:
    """Parameters without annotations (their text differs between Python versions) and with plain defaults only."""
    signature = inspect.signature(function)
    bare = [
        parameter.replace(
            annotation=inspect.Parameter.empty,
            default=parameter.default if parameter.default is parameter.empty or isinstance(parameter.default, _PLAIN) else ...,
        )
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def main() -> int:
    """Print every hook as installed, ready to paste; changed ones are marked. Returns how many are."""
    changed, owner = 0, ""
    for hook in HOOKS:
        module, _, path = hook.target.partition(":")
        cls, _, attribute = path.rpartition(".")
        if (heading := f"{module}:{cls}" if cls else module) != owner:
            owner = heading
            sys.stdout.write(f"    # {owner} ({hook.package.name} {importlib.metadata.version(hook.package.name)})\n")
        problem = difference(hook)
        changed += problem is not None
        try:
            found = look(hook)
        except HookGone:
            found = Found("", "gone", "gone")
        mark = "" if problem is None else f"  # CHANGED: {problem}"
        sys.stdout.write(f'        "{attribute}": ("{found.signature}", "{found.digest}", "{hook.why}"),{mark}\n')
    return changed


if __name__ == "__main__":
    sys.exit(1 if main() else 0)

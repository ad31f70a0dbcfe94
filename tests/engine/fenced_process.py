"""A process that owns partitions, writes whenever input comes in, and fences itself. Started and stopped by the tests.

``python -m tests.engine.fenced_process asyncio|uvloop <limit seconds> <signal: on|off>`` prints ``ready``; after that each
line it reads from standard input is "an acknowledgement that makes it write": it prints ``wrote <line>``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop

from app.engine.fence import Fence, SelfFenced


async def live(limit_s: float, with_signal: bool) -> None:
    """Until killed."""
    fence = Fence(limit_s, lambda: True)
    watching = asyncio.create_task(fence.run())
    await asyncio.sleep(0)
    if not with_signal:  # as when the machine was suspended: nobody tells the process
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: Callback(reader, fence), sys.stdin)
    print("ready", flush=True)  # noqa: T201
    await watching


class Callback(asyncio.StreamReaderProtocol):
    """What the loop has ready when the process goes on: input, handled before any timer."""

    def __init__(self, reader: asyncio.StreamReader, fence: Fence) -> None:
        super().__init__(reader)
        self._fence = fence

    def data_received(self, data: bytes) -> None:
        os.write(1, b"callback\n")
        try:
            self._fence.check()
        except SelfFenced:
            os.write(1, b"fatal returned\n")
            raise
        os.write(1, b"wrote " + data)


if __name__ == "__main__":
    name, limit, with_signal = sys.argv[1:]
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy() if name == "uvloop" else asyncio.DefaultEventLoopPolicy())
    asyncio.run(live(float(limit), with_signal == "on"))

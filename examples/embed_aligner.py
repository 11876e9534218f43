"""A consistent cut over several asyncio queues, with a BarrierAligner in our own loop.

Producers send numbers at their own pace, each through its own queue, with a barrier after every
ten. One worker sums them up. Its sum at a barrier must be the sum of exactly the numbers before
that barrier on every queue, however the queues were interleaved.
"""

from __future__ import annotations

import asyncio
import random

from onceflow.embed import AlignerAction, BarrierAligner

CHANNELS, CHECKPOINTS, BATCH = 4, 5, 10
Queue = asyncio.Queue[tuple[str, int]]


def numbers(channel: int, checkpoint: int) -> list[int]:
    """What a channel sends before the barrier of this checkpoint (the same on every call)."""
    return random.Random(100 * channel + checkpoint).choices(range(1_000), k=BATCH)


async def produce(channel: int, queue: Queue) -> None:
    pace = random.Random(channel)
    for checkpoint in range(1, CHECKPOINTS + 1):
        for number in numbers(channel, checkpoint):
            await queue.put(("item", number))
            await asyncio.sleep(pace.choice([0, 0, 0.001 * channel]))  # let others run ahead
        await queue.put(("barrier", checkpoint))
    await queue.put(("end", 0))


async def work(queues: list[Queue]) -> dict[int, int]:
    """Sums up what the aligner delivers; returns the sum at each checkpoint."""
    aligner = BarrierAligner(len(queues), max_buffered_bytes=1 << 20)
    clock = asyncio.get_running_loop().time
    open_channels = set(range(len(queues)))
    reads: dict[int, asyncio.Task[tuple[str, int]]] = {}
    total, snapshots = 0, {}
    while True:
        # A blocked channel is left alone: its queue fills up and slows its producer down.
        for channel in open_channels - reads.keys():
            if not aligner.is_blocked(channel):
                reads[channel] = asyncio.create_task(queues[channel].get())
        done, _ = await asyncio.wait(reads.values(), return_when=asyncio.FIRST_COMPLETED)
        for channel in [channel for channel, read in reads.items() if read in done]:
            kind, value = reads.pop(channel).result()
            if kind == "item":
                actions = aligner.receive(channel, value, size_bytes=8)
            elif kind == "barrier":
                actions = aligner.barrier(channel, value, now_s=clock())
            else:
                open_channels.remove(channel)
                actions = aligner.end(channel, now_s=clock())
            for action in actions:
                match action:
                    case AlignerAction.Deliver(item=item):
                        total += item
                    case AlignerAction.Trigger(checkpoint_id=checkpoint):
                        snapshots[checkpoint] = total
                    case AlignerAction.End():
                        return snapshots


async def main() -> dict[int, int]:
    queues: list[Queue] = [asyncio.Queue(maxsize=3) for _ in range(CHANNELS)]
    async with asyncio.TaskGroup() as tasks:
        for channel, queue in enumerate(queues):
            tasks.create_task(produce(channel, queue))
        worker = tasks.create_task(work(queues))
    snapshots = worker.result()

    prefix = 0
    for checkpoint in range(1, CHECKPOINTS + 1):
        prefix += sum(sum(numbers(channel, checkpoint)) for channel in range(CHANNELS))
        assert snapshots[checkpoint] == prefix, "the cut is not consistent"
        print(f"checkpoint {checkpoint}: sum {prefix}")
    return snapshots


if __name__ == "__main__":
    asyncio.run(main())

"""Send the requests of a trace when they are due: arrivals on time, later turns after what they wait for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from replay.fidelity.endpoint import Answer
from traces.schema import Trace

Send = Callable[[int], Awaitable[Answer]]
LEAD_S = 0.1  # between the start and the first arrival
PARENT = "its previous turn failed"
WATCH_S = 0.05


@dataclass
class Sent:
    """One request that was due: when, by time.perf_counter, and what came of it."""

    planned_s: float
    answer: Answer

    @property
    def end_s(self) -> float:
        """When its last token came."""
        return self.answer.token_s[-1]


async def drive(trace: Trace, send: Send, limit_s: float, stopped: Callable[[], bool] = lambda: False,
                told: Callable[[], None] = lambda: None) -> tuple[float, list[Sent | None]]:  # fmt: skip
    """Send every request of a trace; rows with a parent wait until it ended, and then their think time.

    send    : called with a row when it is due
    limit_s : seconds after the start from which nothing more is sent
    stopped : asked again and again; once true, what is under way is dropped
    returns : the start by time.perf_counter, and what became of each row; None where it was not sent, or was dropped
    """
    start_s = time.perf_counter() + LEAD_S
    arrivals_s = trace.column("arrival_s")
    parents = trace.column("parent").tolist() if "parent" in trace else [-1] * len(trace)
    think_s = trace.column("think_s").tolist() if "think_s" in trace else [0.0] * len(trace)
    tasks: list[asyncio.Task[Sent | None]] = []

    async def one(row: int) -> Sent | None:
        planned_s = start_s + float(arrivals_s[row])
        if parents[row] >= 0:
            before = await asyncio.shield(tasks[parents[row]])
            if before is None:
                return None
            if before.answer.error is not None:
                return Sent(before.planned_s, Answer(before.planned_s, error=PARENT))
            planned_s = before.end_s + think_s[row]
        if planned_s - start_s > limit_s:
            return None
        await asyncio.sleep(max(0.0, planned_s - time.perf_counter()))
        answer = await send(row)
        told()
        return Sent(planned_s, answer)

    tasks += [asyncio.create_task(one(row)) for row in range(len(trace))]
    pending: set[asyncio.Task[Sent | None]] = set(tasks)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=WATCH_S)
        if stopped():
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            break
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
    return start_s, [None if task.cancelled() else task.result() for task in tasks]

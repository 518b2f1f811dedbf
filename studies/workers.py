"""Jobs in this process or side by side in others."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

Job = TypeVar("Job", bound=Hashable)


def run_jobs(
    remaining: Callable[[], Sequence[Job]],
    work: Callable[[Job], Any],
    finish: Callable[[Job, Any], None],
    num_processes: int,
) -> None:
    """Runs the most urgent jobs, and asks again after each of them.

    Args:
        remaining: function that lists the jobs that are left, the most urgent
            first; none when all is done.
        work: function of a job that returns its result. With more than one
            process it must be picklable.
        finish: function of a job and its result, called in this process.
        num_processes: int. Jobs side by side.
    """
    if num_processes == 1:
        while jobs := remaining():
            finish(jobs[0], work(jobs[0]))
        return
    with concurrent.futures.ProcessPoolExecutor(
        num_processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    ) as pool:
        in_flight: dict[concurrent.futures.Future[Any], Job] = {}
        while True:
            for job in remaining():
                if len(in_flight) == num_processes:
                    break
                if job not in in_flight.values():
                    in_flight[pool.submit(work, job)] = job
            if not in_flight:
                return
            finished, _ = concurrent.futures.wait(
                in_flight, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                finish(in_flight.pop(future), future.result())


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed, which would wait forever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

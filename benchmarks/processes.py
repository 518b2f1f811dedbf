"""Calls a function in a new process that has done nothing but import."""

import multiprocessing
from collections.abc import Callable
from concurrent import futures
from typing import Any


def call_in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of a module in a new process, and waits for it.

    The process is forked from a server, which imports TensorFlow once and
    computes nothing.

    Returns:
        What the function returns, pickled in between.

    Raises:
        concurrent.futures.process.BrokenProcessPool: If the process dies.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.workloads"])
    with futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()

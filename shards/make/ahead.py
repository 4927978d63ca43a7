"""Reads what comes next while this is worked on: an object store answers many at a time, each after a while."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial


def read_ahead(read: Callable[[int], bytes], count: int, threads: int) -> Iterator[Callable[[], bytes]]:
    """What gives the bytes of item 0, 1, ... count - 1, or raises what `read` did; without threads, when called."""
    if not threads:
        yield from (partial(read, i) for i in range(count))
        return
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[bytes]]()
    try:
        for i in range(count):
            waiting.append(pool.submit(read, i))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result
    finally:
        pool.shutdown(cancel_futures=True)

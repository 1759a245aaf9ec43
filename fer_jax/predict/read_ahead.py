"""An iterator that works in a thread of its own, a few items ahead of who takes them."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_END = object()


class ReadAhead(Generic[T]):
    """What an iterable gives, made ahead of time in a thread.

    What it raises is raised here, after all that came before it. Closing, which leaving the `with`
    block does, stops the thread after the item that it is at, and closes the iterable.

    Attributes:
        seconds: of the processor, spent by the thread.
    """

    def __init__(self, items: Iterable[T], size: int):
        """Starts the thread.

        Args:
            items: iterated over in the thread, and nowhere else.
            size: how many are made ahead at most.
        """
        self.seconds = 0.0
        self._items = items
        self._queue: queue.Queue = queue.Queue(size)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> "ReadAhead[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)  # it may be waiting for a place

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error = self._queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    def _work(self) -> None:
        begun = time.thread_time()
        iterator = iter(self._items)
        error: BaseException | None = None
        try:
            for item in iterator:
                self.seconds = time.thread_time() - begun
                self._queue.put((item, None))
                if self._stopped.is_set():
                    break
        except BaseException as found:
            error = found
        finally:
            if isinstance(close := getattr(iterator, "close", None), Callable):
                close()
            self.seconds = time.thread_time() - begun
        if not self._stopped.is_set():
            self._queue.put((_END, error))

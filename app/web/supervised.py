"""A worker ends when the process that started it is gone, also where that was killed: nobody would replace it, and it
would keep the port from the next server."""

import os
import signal
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """As on SIGTERM: requests in flight end. One that was not started by another process has nobody to end with."""
    if parent_process() is not None:
        threading.Thread(target=_wait, name="parent", daemon=True).start()


def _wait() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def orphaned() -> bool:
    parent = parent_process()
    return parent is not None and not parent.is_alive()

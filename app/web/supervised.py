"""A worker ends when its parent process has ended or was killed: nobody would restart the worker, and it would occupy
the port of the next server."""

import os
import signal
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Stop as on SIGTERM, so that requests being done are finished. Nothing happens in a process without such a
    parent."""
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

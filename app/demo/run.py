"""`registry demo`: load and serve a demo. Everything but the first admin is made over HTTP."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn
from urllib.request import getproxies

from pydantic import ValidationError

from app.demo.demo_file import Demo
from app.demo.load import first_pid, lasting_extract, load, say, serious_event, sign_everybody_in
from app.demo.server import Server, ServerFailed, free_port, init
from app.demo.setup import new_password
from app.demo.tour import tour
from registry_client import RegistryFailure

FILE = "demo.json"
INTERRUPTED = 130


class Stopped(Exception):
    """Ctrl-C, or a signal to stop."""


class FolderOccupied(Exception):
    """The folder has files that are not a complete demo."""


def run(data: Path, port: int, leave: bool) -> int:
    """Load the demo into the folder `data`, or start the one that is there, and serve it until Ctrl-C. `leave`: stop
    once it is loaded. Gives the exit code."""
    _listen_to_signals()
    folder = data.absolute()
    try:
        return _demo(folder, port, leave)
    except Stopped:
        say("\nStopped.")
        return 0 if (folder / FILE).exists() else INTERRUPTED
    except FolderOccupied:
        reason = f"{folder} is not empty and holds no complete demo. Remove it, or choose another with --data."
    except (ServerFailed, RegistryFailure) as failure:
        reason = f"The demo failed. {failure}"
    print(reason, file=sys.stderr, flush=True)
    return 1


def _listen_to_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end the demo by an exception, so that its server is stopped too. Under nohup
    SIGHUP stays ignored."""

    def stop(*_: object) -> NoReturn:
        raise Stopped

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, stop)


def _demo(folder: Path, port: int, leave: bool) -> int:
    started = time.monotonic()
    known = known_demo(folder)
    chosen = free_port(port)
    if port and chosen != port:
        say(f"Port {port} is taken; using {chosen}.")
    say(f"Preparing database and keys in {folder} ...")
    password = known.first("admin").password if known else None
    password = password or new_password()
    init(folder, password)
    with Server(folder, chosen) as server:
        server.wait_until_ready()
        say(f"Serving on {server.base_url}.")
        demo = _again(known, server.base_url) if known else load(server.base_url, password)
        demo.write(folder / FILE)
        say(f"Ready after {time.monotonic() - started:.0f} s.\n")
        if leave:
            say(f"Loaded, and stopped. Accounts: {folder / FILE}\nServe it: ./registry demo --data {folder}")
            return 0
        say(tour(demo, first_pid(demo), serious_event(demo), folder / FILE, proxied="http" in getproxies()))
        say("\nStop with Ctrl-C.")
        raise server.death()


def known_demo(folder: Path) -> Demo | None:
    """The demo in a folder. None if the folder is new or empty; only its owner can then use it. Raises
    FolderOccupied."""
    if (folder / FILE).exists():
        say(f"Found a demo in {folder}; using it again.")
        try:
            return Demo.read(folder / FILE)
        except ValidationError:
            raise FolderOccupied from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FolderOccupied
    os.chmod(folder, 0o700)
    return None


def _again(demo: Demo, base_url: str) -> Demo:
    """An existing demo at its new address, with new tokens and an extract that can be downloaded."""
    demo.base_url = base_url
    sign_everybody_in(demo)
    demo.extract = lasting_extract(demo)
    return demo

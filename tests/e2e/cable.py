"""The network between a browser and the site, with a cable that can be cut: what is on its way is lost, in silence."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Cable:
    """Listens on a free port of this machine and passes bytes on to `port`. Nothing tells either end of a cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._whole = threading.Event()
        self._whole.set()
        self._cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """From here on nothing passes, and new connections hang."""
        self._cuts += 1
        self._whole.clear()

    def mend(self) -> None:
        """New connections pass again; those from before the cut stay dead."""
        self._whole.set()

    def close(self) -> None:
        for end in [self._listener, *self._ends]:
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._ends += [near, far]
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=(one, other, self._cuts), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, cuts: int) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if self._cuts == cuts:
                    other.sendall(data)
            if self._cuts == cuts:
                other.shutdown(socket.SHUT_WR)

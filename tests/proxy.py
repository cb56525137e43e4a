"""A proxy on loopback that spoils connections on demand."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time


class Proxy:
    """Forwards TCP connections on loopback; ``mode`` says what happens to them, now and from now on."""

    def __init__(self, host: str, port: int) -> None:
        self.mode = "open"
        self._target = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.05)
        self.port = self._listening.getsockname()[1]
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near = self._listening.accept()[0]
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._forward, args=(near,))
            self._threads.append(thread)
            thread.start()
        self._listening.close()

    def _forward(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far:
            pairs = {near: far, far: near}
            while not self._closed.is_set():
                if self.mode == "reset":  # a zero linger makes close() send a reset
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if self.mode == "cut":
                    return
                if self.mode == "hole":
                    time.sleep(0.02)
                    continue
                for ready in select.select(list(pairs), [], [], 0.02)[0]:
                    if self.mode == "slow":
                        time.sleep(0.1)
                    try:
                        data = ready.recv(65536)
                        if not data:
                            return
                        pairs[ready].sendall(data)
                    except OSError:
                        return

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()

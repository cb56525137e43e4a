"""A process that backfills one collection and prints what memory it took: ``python memory_worker.py URL SPACE``.

Prints a line of JSON: bytes in use before the first read, and the peaks since, of this process's own memory (``own``)
and with the files that an engine maps (``whole``), which the system takes back when it needs the room.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path

from backfill_worker import load_space, open_filler
from imrnn_vdb.backfill import backfill_script
from imrnn_vdb.scripts import run_script


def in_use() -> dict[str, int]:
    found = dict(re.findall(r"^(VmRSS|RssFile):\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE))
    whole = 1024 * int(found["VmRSS"])
    return {"whole": whole, "own": whole - 1024 * int(found["RssFile"])}


def main() -> None:
    url, space = sys.argv[1:]
    connection, filler = open_filler(url, load_space(Path(space)), batch_size=500)
    connection.run(filler.store.info())
    start, peak, done = in_use(), in_use(), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            now = in_use()
            for name, value in now.items():
                peak[name] = max(peak[name], value)

    thread = threading.Thread(target=watch)
    thread.start()
    report = run_script(connection, backfill_script(filler, lambda _count: None))
    done.set()
    thread.join()
    connection.close()
    print(json.dumps({"written": report.written, "growth": {name: peak[name] - start[name] for name in peak}}))


if __name__ == "__main__":
    main()

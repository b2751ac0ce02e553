"""A Celery worker with a broker in its own memory, and what sends to it."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from celery import Celery

os.environ["DJANGO_SETTINGS_MODULE"] = "hosts.settings"
app = Celery("hosts", broker="memory://")
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)

TASKS = 20


@app.task(name="identify")
def identify_task(directory, number):
    from hosts.site import identify

    # Renamed when it's whole.
    part = Path(directory) / f"{number}.part"
    part.write_text(json.dumps(identify()))
    part.rename(part.with_suffix(".json"))


def send(directory):
    for number in range(TASKS):
        identify_task.delay(directory, number)
    end = time.monotonic() + 40
    while len(list(Path(directory).glob("*.json"))) < TASKS:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    # As long as the worker runs, so that its sessions can be looked at.
    (Path(directory) / "done").touch()


if __name__ == "__main__":
    pool, directory, *options = sys.argv[1:]
    signal.alarm(60)
    threading.Thread(target=send, args=[directory], daemon=True).start()
    quick = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(
        ["worker", f"--pool={pool}", "--concurrency=2", "-l", "ERROR", *quick, *options]
    )

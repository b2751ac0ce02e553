"""
Clients of the demo's site, all in one process of their own.

    python -m pooltools.demo_load PORT SECONDS CLIENTS

Each has one connection, and asks for the next page as soon as it has the last
one: most often for a topic, now and then for the list, and some post a
message. What they saw is printed as JSON.
"""

import http.client
import json
import random
import sys
import threading
import time
import urllib.parse

TOPICS = 20


class Client(threading.Thread):
    def __init__(self, number, port, end):
        super().__init__()
        self.number = number
        self.end_time = end
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        # The same requests with the pool on and off.
        self.random = random.Random(number)
        self.cookie = ""
        self.latencies = []
        self.failures = []

    def run(self):
        try:
            # For the cookie that posting takes.
            self.get("/topic/1/")
            while time.monotonic() < self.end_time:
                self.step()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(f"client {self.number}: {error!r}")
        finally:
            self.connection.close()

    def step(self):
        begin = time.monotonic()
        dice = self.random.random()
        topic = f"/topic/{self.random.randint(1, TOPICS)}/"
        if dice < 0.1:
            self.get("/")
        elif dice < 0.9:
            self.get(topic)
        else:
            self.post(topic)
        self.latencies.append(time.monotonic() - begin)

    def get(self, path):
        self.request("GET", path, 200, headers={"Cookie": self.cookie})

    def post(self, path):
        fields = {
            "csrfmiddlewaretoken": self.cookie.partition("=")[2],
            "author": f"Client {self.number}",
            "text": "Something to read.",
        }
        headers = {
            "Cookie": self.cookie,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        body = urllib.parse.urlencode(fields)
        self.request("POST", path, 302, body=body, headers=headers)

    def request(self, method, path, expected, **kwargs):
        self.connection.request(method, path, **kwargs)
        response = self.connection.getresponse()
        response.read()
        cookie = response.getheader("Set-Cookie", "")
        if cookie.startswith("csrftoken="):
            self.cookie = cookie.partition(";")[0]
        if response.status != expected:
            self.failures.append(f"{method} {path}: status {response.status}")


def percentile(values, percent):
    """Return the value that so many percent of them don't exceed."""
    return values[max(0, -(-len(values) * percent // 100) - 1)] if values else 0.0


def main(port, seconds, clients):
    start = time.monotonic()
    threads = [Client(n, port, start + seconds) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - start
    latencies = sorted(x for thread in threads for x in thread.latencies)
    failures = [x for thread in threads for x in thread.failures]
    result = {
        "requests": len(latencies),
        "requests per second": len(latencies) / elapsed,
        "p50": percentile(latencies, 50),
        "p99": percentile(latencies, 99),
        "failed": len(failures),
        "failures": failures[:5],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))

"""Use the database in processes that multiprocessing starts."""

import json
import multiprocessing
import sys


def use(results):
    from hosts.site import identify

    results.put([identify(), identify()])


def main(method):
    from hosts.site import connection, identify

    before = identify()
    connection.close()
    held = identify()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    children = [context.Process(target=use, args=[results]) for _ in range(3)]
    for child in children:
        child.start()
    found = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join(30)
    after = identify()
    codes = [child.exitcode for child in children]
    print(json.dumps([before, held, after, found, codes]))


if __name__ == "__main__":
    main(sys.argv[1])

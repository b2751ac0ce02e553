"""
Runs scenarios of requests against a site that an ASGI server serves, and looks
at the pool and at the database server afterwards.

cli.py starts everything; hosting.py knows ASGI servers, databases.py what
the database's side says; scenarios.py is what clients do, client.py how;
report.py makes the table. site/ is what's served.
"""

"""
A fault campaign: a Django workload goes through the pool while its server is
killed, stopped, cut off and so on, and what must hold is checked.

    target.py     the server, and what can be done to it
    proxy.py      the network between the pool and the server
    workload.py   the requests and what they log outside the database
    faults.py     what is injected
    checks.py     what must hold
    campaign.py   the schedule
    report.py     the table
"""

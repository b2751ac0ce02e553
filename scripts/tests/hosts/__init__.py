"""A site for test_hosts: what runs a pool, and under which servers."""

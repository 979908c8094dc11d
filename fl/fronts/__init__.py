"""Fronts of `secagg serve` as Ray actors: the connections with clients on the machines of a cluster.

Security: fronts see what the server sees, and what they say is unpickled in the server's process. So the cluster must
belong to the server alone, and its traffic must be encrypted (``RAY_USE_TLS=1``) or on a private network.
"""

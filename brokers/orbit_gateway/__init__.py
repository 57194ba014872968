"""The HTTP gateway: REST and server-sent events for whoever has no client of the library.

An ordinary client of the broker with the role `gateway`, acting for the users of HTTP. It imports no plugin and no broker.
"""

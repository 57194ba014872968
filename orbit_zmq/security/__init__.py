"""Who may connect: keys, the broker's list of them, and the join string. Nothing here imports zmq or opens a socket."""

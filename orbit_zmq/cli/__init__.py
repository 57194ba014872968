"""The command line: each command parses, asks once, prints. Nothing here knows of sockets."""

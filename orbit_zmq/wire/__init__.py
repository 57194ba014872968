"""The envelope: headers, bodies and limits as bytes. Nothing here knows of sockets, clocks, or logs."""

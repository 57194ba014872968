"""The broker: routes calls between participants, knows who is there, and keeps no task state.

State, rules and loop are kept apart. `state` has the records, the modules of rules have free functions `on_<event>` that
change them and put messages into `out`, `loop` alone touches sockets and clocks. It imports no plugin.
"""

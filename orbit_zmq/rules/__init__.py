"""The rules: state machines that take messages and the time, and say what to send. They do no I/O and read no clock."""

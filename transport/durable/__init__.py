"""Sessions that survive the end of a process or a connection: hosts, journals, frames."""

"""Groups of commands: arguments in, exit code out. `cli` puts them together; the work itself is elsewhere."""

"""Control: the process with the registry, as the processes that answer predictions see it."""

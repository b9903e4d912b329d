"""The sandbox: a child process with limits, and what it gives up before it opens anything."""

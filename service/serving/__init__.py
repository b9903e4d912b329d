"""The serving lane: predictions are answered before any router, by the same rules as everything else.

A request through the framework's layers costs about as much again as all that a prediction needs (measured: 10,000
against 20,000 empty answers a second on one core). So what must be quick is answered in `lane`, which knows of keys,
request ids, limits and errors what `middleware` and `problems` say, and of everything else nothing.
"""

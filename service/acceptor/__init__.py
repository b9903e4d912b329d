"""The acceptor: a process that accepts connections and hands each to the process that answers it."""

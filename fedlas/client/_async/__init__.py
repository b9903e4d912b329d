"""The client for code that awaits; `fedlas/client/_sync` is made of it."""

# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""The client for code that waits."""

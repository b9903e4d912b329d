"""Rules of every request, whoever answers it: access by key, the log of requests, and problems as answers."""

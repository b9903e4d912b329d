"""The processes of a service: each composes its application and runs it."""

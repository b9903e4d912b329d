"""HTTP/1.1 connections over uvicorn: limits of connections, of heads and of silence."""

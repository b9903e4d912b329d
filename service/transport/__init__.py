"""HTTP/1.1 connections: who may connect, how large a head may be, how long a silence may last."""

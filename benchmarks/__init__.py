"""Measurements on real data and real networks: settings, peers and programs; nothing of it is installed."""

"""Fetch policies: from which tiers a request loads its prefix, and how long it may wait for that."""

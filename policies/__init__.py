"""Policies, one a file; a new file is found by import. `kvreplay policies` lists them."""

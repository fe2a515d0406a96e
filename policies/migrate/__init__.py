"""Which instance gives a running request to which other one."""

"""Profiles from measurements, calibration by logs of real engines, and validation against their runs."""

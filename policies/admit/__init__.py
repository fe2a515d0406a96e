"""Admission: whether a request is taken at all."""

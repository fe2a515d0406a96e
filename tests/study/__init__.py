"""Tests of studies over replays."""

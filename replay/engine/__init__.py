"""The compiled event core; MODEL.md beside this file says precisely what it computes."""

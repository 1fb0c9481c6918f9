"""Measurements of time and memory behind ``calif bench``: every row in a process of its own."""

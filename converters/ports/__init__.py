"""The edges of a network: what it takes and returns, in which structure and range, and float functions behind it."""

"""Arithmetic without error: the domain in which sums are whole, rounding of quotients, charges that add up."""

"""A run as one page: what is shown, and how it gets there safely."""

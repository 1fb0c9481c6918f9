"""Networks in simulators that this project did not write."""

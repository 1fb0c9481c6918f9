"""What is printed, and what libraries are kept from printing."""

"""The paper's networks, data sets, training recipes, and checkpoints by name (sections 4.1 and 4.2)."""

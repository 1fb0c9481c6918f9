"""What is measured on runs and networks: costs, replays, comparisons."""

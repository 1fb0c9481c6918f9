"""The paper's figures and tables, measured from checkpoints: ``calif reproduce``."""

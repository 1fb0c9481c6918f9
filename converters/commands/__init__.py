"""The subcommands of ``calif``, a file for each kind of work."""

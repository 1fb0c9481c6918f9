"""Files: read as strangers', written whole or not at all."""

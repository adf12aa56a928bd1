"""Stand-ins for what tests cannot have: servers that fail on demand."""

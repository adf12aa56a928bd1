"""Plug-ins for training systems of others, each imported in that system's environment only."""

"""The networks: placeholder expansion, positions and forward passes. Needs torch."""

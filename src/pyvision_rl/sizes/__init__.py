"""How large a run is before it starts: parameters, tokens and memory, from numbers alone."""

"""Mutated inputs: what goes into interp, spoilt in known ways, and judges of what comes of it."""

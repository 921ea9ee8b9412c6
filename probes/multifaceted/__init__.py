"""Facets: the different things that make one unit fire, found and drawn."""

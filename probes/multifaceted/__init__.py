"""Facets: the different things that make one unit fire, and images that show them."""

from probes.multifaceted import objectives, schedules

__all__ = ["objectives", "schedules"]

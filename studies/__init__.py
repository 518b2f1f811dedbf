"""Comparisons of gates by one protocol, and older research programs."""

"""Busy is not dead: how nodes ask each other past their event loops, and where a blocked one stands."""

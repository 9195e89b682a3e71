"""Busy is not dead: nodes ask each other past their event loops, and learn where a blocked one stands."""

from __future__ import annotations

from agentnet.liveness.vitals import Vitals

__all__ = ["Vitals"]

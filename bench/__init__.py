"""What agentnet costs, beside the systems that people would otherwise choose.

``python -m bench`` measures end to end, in separate processes on loopback; ``bench/micro`` holds
pytest-benchmark cases of single rooms.  Read in this order: ``worker`` (what runs in a measured
process), ``peers/`` and ``agentnet_*`` (the roles, one file per system), ``processes`` (how they are
started and stopped), ``systems`` (the table of them), ``scenes`` (one run), ``works`` (the table of all
that is measured), ``run`` (pairs, medians, ratios), ``report``.
"""

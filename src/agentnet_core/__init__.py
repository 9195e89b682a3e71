"""The sans-IO core of agentnet: it does no I/O, reads no clock and draws no random number."""

"""``python -m agentnet`` is the command ``agentnet``."""

from agentnet.cli import main

if __name__ == "__main__":
    main(prog_name="agentnet")

"""The other systems, one file each, all with the same roles where the system has them:

``receive`` and ``send``: one way, each message ends in a call of a Python handler.
``serve`` and ``call``: request and reply, the server answers with what it got.
``broker``: the server in the middle, in place of this process.

Each role takes a Bench; ``systems.py`` holds the table of them.
"""

"""A stand-in for vLLM: what the benchmark touches of it, and a real server that fails on command.

Its load formats read the weights' bytes, and its answers are made of their checksum: other weights, another answer.
What it shall do wrong, the environment says: see `entrypoints.openai.api_server`.
"""

__version__ = "9.9.0"

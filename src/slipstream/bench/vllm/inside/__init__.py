"""Programs for vLLM's interpreter, where slipstream need not be installed: standard library and vLLM only.

Each reads one line of JSON and answers with one: {"said": ..., ...}, or {"said": "failed", "reason": ...}.
"""

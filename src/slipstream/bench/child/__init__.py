"""What runs in a sample's own process.

It stands on the standard library, numpy and the contender's own library, and on Python 3.10: it also runs in other
interpreters, where slipstream is not installed, under the name `slipstream_bench_child` (see `bench.interpreters`).
So everything in here is imported relatively, and nothing of the rest of slipstream is.
"""

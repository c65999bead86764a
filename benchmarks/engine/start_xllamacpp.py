"""llama.cpp's own HTTP server from the PyPI package xllamacpp, run by an interpreter that has it; prints its address, then waits.

Flash attention, batch sizes and continuous batching stay as that server chooses them.
"""

import sys

import xllamacpp  # type: ignore[import-not-found]

path, slots, length, threads = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path = path
params.n_parallel, params.n_ctx = slots, slots * length
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()

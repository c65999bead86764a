"""The worker: one GGUF model in llama.cpp behind HTTP, drawing tokens by the sampling rule of `aos_protocol`.

Start reading at `main` (the command), then `app` (HTTP), `engine` (the thread that owns the model), `scheduler`
(what runs next) and `llama` (llama.cpp through ctypes).
"""

import os

# numpy's BLAS reads this when numpy is first imported. Its threads spin while they wait, beside llama.cpp's, for products that one
# thread computes in 30 microseconds: where the processors are busy that makes each a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

"""The worker: one GGUF model in llama.cpp behind HTTP, drawing tokens by the sampling rule of `aos_protocol`.

Start reading at `main` (the command), then `app` (HTTP), `engine` (the thread that owns the model), `scheduler`
(what runs next) and `llama` (llama.cpp through ctypes).
"""

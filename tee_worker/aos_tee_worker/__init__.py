"""The enclave worker: the inference worker inside an enclave, with keys that never leave it and attestation of both.

Start reading at `main` (the command).
"""

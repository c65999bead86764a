"""Attestation: what an enclave says of itself, and whether that is to be believed (RATS, RFC 9334; no I/O).

Start reading at `statement` (what an enclave sends), then `policy` (what a verifier wants) and `appraisal`, which holds
the one against the other. `nitro`, `tdx` and `snp` verify what hardware has signed.
"""

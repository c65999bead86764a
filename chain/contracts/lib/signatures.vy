# pragma version 0.4.3
"""
@title Signatures
@notice Who signed an EIP-712 struct in the network's domain, and whose a public key is.
@dev One domain for all contracts of a network: its verifyingContract is the registry. It is hashed anew each time: should
     the chain ever split, a signature counts on its own side only.
"""

DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
DOMAIN_NAME: constant(bytes32) = keccak256("AOS")
DOMAIN_VERSION: constant(bytes32) = keccak256("1")

# Half the group order of secp256k1: of the two signatures s and n - s only the lower counts.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168


@internal
@view
def check(registry: address, signer: address, struct_hash: bytes32, signature: Bytes[65]):
    """Reverts unless this signer has signed the struct."""
    assert self.recover(registry, struct_hash, signature) == signer, "the signature is another key's"


@internal
@view
def recover(registry: address, struct_hash: bytes32, signature: Bytes[65]) -> address:
    """Who signed the struct: r, s and v in 65 bytes. Reverts for what is no signature: never the zero address."""
    assert len(signature) == 65, "a signature has 65 bytes"
    s: uint256 = convert(extract32(signature, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    assert s <= HALF_ORDER, "the signature's s is high"
    assert v == 27 or v == 28, "the signature's v is not 27 or 28"
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, chain.id, registry))
    digest: bytes32 = keccak256(concat(b"\x19\x01", domain, struct_hash))
    signer: address = ecrecover(digest, v, convert(extract32(signature, 0), uint256), s)
    assert signer != empty(address), "the signature is no key's"
    return signer


@internal
@pure
def address_of(public_key: uint256[2]) -> address:
    """The address of a key: x, y."""
    return convert(convert(keccak256(abi_encode(public_key)), uint256) & convert(max_value(uint160), uint256), address)

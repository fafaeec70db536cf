"""Both ways of verifying Ed25519 say the same, and say no to everything that is not a signature."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.signatures import by_library, by_openssl, verify_ed25519

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
#: RFC 8032, 7.1, test 3.
RFC = (
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"  # R
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"  # S
    ),
    "af82",
)
openssl = by_openssl()
WAYS = [pytest.param(by_library, id="library"), *([pytest.param(openssl, id="openssl")] if openssl else [])]


@pytest.mark.parametrize("verify", WAYS)
def test_it_knows_the_standards_example(verify) -> None:
    key, signature, data = (bytes.fromhex(text) for text in RFC)
    assert verify(key, signature, data)
    assert not verify(key, signature, data + b"\0")


@pytest.mark.parametrize("verify", WAYS)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=300), bit=st.integers(0, 511))
def test_one_flipped_bit_is_enough(verify, data: bytes, bit: int) -> None:
    signature = KEY.sign(data)
    assert verify(PUBLIC, signature, data)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not verify(PUBLIC, bytes(flipped), data)


@given(st.text(max_size=70), st.binary(max_size=70), st.binary(max_size=10))
def test_nonsense_does_not_hold_and_raises_nothing(public: str, signature: bytes, data: bytes) -> None:
    assert not verify_ed25519(public, signature, data)
    assert not verify_ed25519("00" * 32, signature, data)

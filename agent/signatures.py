"""Whether an Ed25519 signature holds: by the OpenSSL that Python's own ``ssl`` runs on, else by securesystemslib.

Rules:
- Loaded with the first signature that is to be judged; an idle agent carries none of it.
- libcrypto is asked first: it costs 0.3 MiB and 0.1 ms. ``cryptography`` brings an OpenSSL of its own (6 MiB), and
  securesystemslib without it verifies in pure Python (8 MiB with what it imports, 10 ms on a fast processor).
- Whatever goes wrong is "does not hold".

Source: EVP_PKEY_new_raw_public_key(3), EVP_DigestVerify(3), in OpenSSL since 1.1.1; RFC 8032.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

Verify = Callable[[bytes, bytes, bytes], bool]

_NID_ED25519 = 1087  # openssl/obj_mac.h
_NAMES = ("libcrypto.so.3", "libcrypto.so.1.1")


def verify_ed25519(public_key: str, signature: bytes, data: bytes) -> bool:
    """Return whether ``signature`` (64 bytes) over ``data`` is by the owner of ``public_key`` (64 hex digits)."""
    try:
        key = bytes.fromhex(public_key)
    except ValueError:
        return False
    return len(key) == 32 and len(signature) == 64 and _verifier()(key, signature, data)


@lru_cache(maxsize=1)
def _verifier() -> Verify:
    return by_openssl() or by_library


def by_openssl() -> Verify | None:
    """Return a verifier that asks libcrypto; None where there is none that knows Ed25519."""
    library = _libcrypto()
    if library is None:
        return None
    try:
        new_key, free_key = library.EVP_PKEY_new_raw_public_key, library.EVP_PKEY_free
        new_context, free_context = library.EVP_MD_CTX_new, library.EVP_MD_CTX_free
        begin, check = library.EVP_DigestVerifyInit, library.EVP_DigestVerify
    except AttributeError:
        return None
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    new_key.restype = new_context.restype = pointer
    new_key.argtypes = (ctypes.c_int, pointer, text, size)
    new_context.argtypes = ()
    free_key.argtypes = free_context.argtypes = (pointer,)
    free_key.restype = free_context.restype = None
    begin.argtypes = (pointer,) * 5
    check.argtypes = (pointer, text, size, text, size)

    def verify(key: bytes, signature: bytes, data: bytes) -> bool:
        public = new_key(_NID_ED25519, None, key, len(key))
        context = new_context()
        try:
            if not public or not context or begin(context, None, None, None, public) != 1:
                return False
            return bool(check(context, signature, len(signature), data, len(data)) == 1)
        finally:
            free_context(context)
            free_key(public)

    return verify


def by_library(key: bytes, signature: bytes, data: bytes) -> bool:
    """Verify with securesystemslib."""
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
    from securesystemslib.signer import Signature, SSlibKey  # type: ignore[attr-defined]  # re-exported silently

    public = SSlibKey("key", "ed25519", "ed25519", {"public": key.hex()})
    try:
        public.verify_signature(Signature("key", signature.hex()), data)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True


def _libcrypto() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None

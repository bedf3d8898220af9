"""The masking of a client's frames (RFC 6455, section 5.3)."""

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform for which websockets has no compiled part
    from websockets.utils import apply_mask

__all__ = ["apply_mask"]

"""Helpers of the image generation course: data, losses, nets and plain training loops."""

__version__ = "0.1.0"

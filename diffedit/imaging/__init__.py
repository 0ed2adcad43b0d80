"""Pictures: decoding, geometry, compositing and metadata."""

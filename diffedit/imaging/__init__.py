"""Images outside the networks: decoding, color, geometry, compositing and metadata."""

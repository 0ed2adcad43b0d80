"""Text conditioning: turn prompts into the token ids that a checkpoint's text encoder reads."""

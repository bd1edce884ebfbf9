"""Text encoders and learned prompts."""

"""densekit."""

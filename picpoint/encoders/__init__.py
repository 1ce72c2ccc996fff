"""Networks that turn clouds and pictures into features."""

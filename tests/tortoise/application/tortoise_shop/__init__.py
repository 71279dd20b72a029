"""An application with Tortoise models."""

"""What one worker does for all: each service runs where its lease by name is held."""

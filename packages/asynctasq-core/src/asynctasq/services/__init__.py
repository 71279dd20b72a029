"""What one worker does on behalf of all: each service runs in the worker that holds its lease."""

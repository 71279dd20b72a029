"""The wire format: values, references, messages and results as bytes; knows no layer above it."""

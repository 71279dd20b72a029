"""What travels: values, references, messages and results as bytes, and nothing above them."""

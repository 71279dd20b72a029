"""One module per ORM: its model, its rows, its hand-written query, its count of queries."""

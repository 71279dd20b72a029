"""What teaches core an ORM: hooks, the plugins that implement them, fetching and scopes."""

"""The application that the tests of the Django adapter use."""

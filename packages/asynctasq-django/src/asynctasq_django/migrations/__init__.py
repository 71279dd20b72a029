"""Migrations of the tables that asynctasq keeps in the application's databases."""
